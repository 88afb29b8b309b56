/* PEM files: certificates and keys. Their paths are absolute once they are loaded, and the files watched. */

#include "types.h"
#include <string.h>
#include "pem.h"

enum { PEM_BYTES_MAX = 4 * 1024 * 1024 };

static const char *text_member(const weir_conf_field_t *field, const void *row)
{
    return *(const char *const *)weir_conf_member_const(field, row);
}

static void load_pem(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node, void *row,
                     const char *(*check)(const char *text, size_t len))
{
    const char *text, *path = weir_conf_load_text_of(load, field, node, NULL);
    size_t len;
    if (path == NULL)
        return;
    path = weir_conf_absolute(load, weir_conf_keep(load, weir_conf_resolve(load, path)));
    weir_conf_watch(load, path);
    const char *unreadable = weir_conf_read_file(path, PEM_BYTES_MAX, false, load->scratch, &text, &len);
    const char *wrong = unreadable == NULL ? check(text, len) : NULL;
    if (unreadable == NULL && wrong == NULL)
        *(const char **)weir_conf_member(field, row) = path;
    else
        weir_conf_fail(load, node, "the file '%s' %s: %s; %s", weir_conf_errors_show(load->scratch, path),
                       wrong != NULL ? "cannot be used" : "cannot be read", wrong != NULL ? wrong : unreadable,
                       field->type->right);
}

const char *weir_conf_check_pair(weir_conf_load_t *load, const char *cert_path, const char *key_path)
{
    const char *cert, *key;
    size_t cert_len, key_len;
    const char *error = weir_conf_read_file(cert_path, PEM_BYTES_MAX, false, load->scratch, &cert, &cert_len);
    if (error == NULL)
        error = weir_conf_read_file(key_path, PEM_BYTES_MAX, false, load->scratch, &key, &key_len);
    return error != NULL ? error : weir_conf_pem_check_pair(cert, cert_len, key, key_len);
}

PARSE(certificates)
{
    load_pem(load, field, node, row, weir_conf_pem_check_certificates);
}

PARSE(private_key)
{
    load_pem(load, field, node, row, weir_conf_pem_check_key);
}

SCHEMA(path)
{
    weir_conf_schema_text(json, NULL, field->min, field->max, true);
}

PARSE(trusted_certificates)
{
    if (node->kind != WEIR_CONF_SCALAR || strcmp(node->text, "system") != 0)
        load_pem(load, field, node, row, weir_conf_pem_check_certificates);
}

PRINT(trusted_certificates)
{
    const char *path = text_member(field, row);
    weir_conf_print_text(out, path != NULL ? path : "system");
}

PARSE(server_name)
{
    weir_conf_set_text_of(load, field, node, row, weir_conf_parse_server_name);
}

SCHEMA(server_name)
{
    weir_conf_schema_text(json, "^[A-Za-z0-9_:.-]*[A-Za-z0-9_:]$", field->min, field->max, false);
}

/* ---- the types ---- */

DEFINE_TYPE(certificate, "a certificate", "write the path of a PEM file with one", "bytes", parse_certificates,
            weir_conf_print_text_field, schema_path)
DEFINE_TYPE(certificates, "a file of certificates", "write the path of a PEM file with some", "bytes",
            parse_certificates, weir_conf_print_text_field, schema_path)
DEFINE_TYPE(private_key, "a private key", "write the path of a PEM file with one", "bytes", parse_private_key,
            weir_conf_print_text_field, schema_path)
DEFINE_TYPE(trusted_certificates, "a file of certificates, or system",
            "write the path of a PEM file with some, or system", "bytes", parse_trusted_certificates,
            print_trusted_certificates, schema_path)
DEFINE_TYPE(server_name, "a server's name", "write a name or an address, such as api.example.com", "bytes",
            parse_server_name, weir_conf_print_text_field, schema_server_name)
