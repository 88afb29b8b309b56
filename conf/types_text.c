/* Texts: bodies, names of headers and tenants, secrets, files. */

#include "types.h"
#include <string.h>

static const char *text_member(const weir_conf_field_t *field, const void *row)
{
    return *(const char *const *)weir_conf_member_const(field, row);
}

PARSE(text)
{
    weir_conf_set_text_of(load, field, node, row, NULL);
}

SCHEMA(text)
{
    weir_conf_schema_text(json, NULL, field->min, field->max, true);
}

PARSE(header)
{
    *(const char **)weir_conf_member(field, row) = weir_conf_load_header(load, node, weir_conf_parse_header);
}

PARSE(own_header)
{
    *(const char **)weir_conf_member(field, row) = weir_conf_load_header(load, node, weir_conf_parse_own_header);
}

SCHEMA(header)
{
    weir_conf_schema_text(json, WEIR_CONF_PATTERN_HEADER, field->min, field->max, true);
}

PARSE(secret)
{
    weir_conf_set_text_of(load, field, node, row, weir_conf_parse_secret);
}

PARSE(password)
{
    weir_conf_set_text_of(load, field, node, row, weir_conf_parse_password);
}

/* Loads as one again, if someone should try. */
PRINT(secret)
{
    fputs(text_member(field, row) != NULL ? " \"[redacted]\"\n" : " null\n", out);
}

SCHEMA(secret)
{
    weir_conf_schema_text(json, "^[!-~]+$", field->min, field->max, true);
}

PARSE(log_target)
{
    weir_conf_set_text_of(load, field, node, row, weir_conf_parse_log_target);
}

SCHEMA(password)
{
    weir_conf_schema_text(json, "^[ -~]+$", field->min, field->max, true);
}

SCHEMA(log_target)
{
    weir_conf_schema_text(json, "^(stdout|stderr|none|/.*)$", field->min, field->max, false);
}

PARSE(file)
{
    weir_conf_set_text_of(load, field, node, row, NULL);
    if (text_member(field, row) != NULL)
        weir_conf_load_tenant_file(load, text_member(field, row), node);
}

SCHEMA(file)
{
    weir_conf_schema_text(json, NULL, field->min, field->max, true);
}

const char *weir_conf_load_tenant_name(weir_conf_load_t *load, const weir_conf_node_t *node)
{
    const weir_conf_type_t *type = &weir_conf_type_tenant_or_refuse;
    const char *text = weir_conf_scalar(load, type, node);
    const char *right = text != NULL ? weir_conf_parse_tenant(text) : NULL;
    if (right != NULL)
        weir_conf_fail_value(load, node, type->what, right);
    return text != NULL && right == NULL ? weir_conf_keep(load, text) : NULL;
}

PARSE(tenant_or_refuse)
{
    const char *tenant = weir_conf_load_tenant_name(load, node);
    if (tenant != NULL && strcmp(tenant, "refuse") != 0)
        *(const char **)weir_conf_member(field, row) = tenant;
}

PRINT(tenant_or_refuse)
{
    const char *tenant = text_member(field, row);
    weir_conf_print_text(out, tenant != NULL ? tenant : "refuse");
}

SCHEMA(tenant_or_refuse)
{
    weir_conf_schema_text(json, WEIR_CONF_PATTERN_TENANT, NULL, NULL, true);
}

/* ---- the types ---- */

DEFINE_TYPE(text, "a text", "write a text", "bytes", parse_text, weir_conf_print_text_field, schema_text)
DEFINE_TYPE(header, "a header's name", "write the name of a header field", "bytes", parse_header,
            weir_conf_print_text_field, schema_header)
DEFINE_TYPE(own_header, "a header's name", "write the name of a header field", "bytes", parse_own_header,
            weir_conf_print_text_field, schema_header)
DEFINE_TYPE(secret, "a token or a password", "write visible ASCII characters without spaces", "bytes", parse_secret, print_secret,
            schema_secret)
DEFINE_TYPE(password, "a password", "write ASCII characters that can be printed; spaces are fine", "bytes", parse_password,
            print_secret, schema_password)
DEFINE_TYPE(log_target, "a place for the log", "write stdout, stderr, none or the absolute path of a file", "bytes",
            parse_log_target, weir_conf_print_text_field, schema_log_target)
DEFINE_TYPE(file, "a file", "write the path of a file", "bytes", parse_file, weir_conf_print_text_field, schema_file)
DEFINE_TYPE(tenant_or_refuse, "a tenant", "write a tenant's name", "bytes", parse_tenant_or_refuse,
            print_tenant_or_refuse, schema_tenant_or_refuse)
