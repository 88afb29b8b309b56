/* Where things are: addresses, urls, paths, hosts, upstreams. */

#include "types.h"
#include <ctype.h>
#include <string.h>

PARSE(address)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    weir_conf_address_t address = {0};
    if (text == NULL)
        return;
    const char *right = weir_conf_parse_address(text, load->arena, &address);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else
        *(weir_conf_address_t *)weir_conf_member(field, row) = address;
}

PRINT(address)
{
    const weir_conf_address_t *address = weir_conf_member_const(field, row);
    weir_conf_print_text(out, address->text);
}

#define PATTERN_PORT "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
#define PATTERN_V6 "\\[[0-9A-Fa-f:.]{2,45}\\]"
#define PATTERN_UNIX "unix:///.{0,105}[^/]"
#define PATTERN_LABEL "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
#define PATTERN_HOST "(" WEIR_CONF_PATTERN_V4 "|(?![0-9.]+(:|/|$))" PATTERN_LABEL "(\\." PATTERN_LABEL ")*\\.?)"
#define PATTERN_NO_DOTS "(?!.*/\\.{1,2}(/|$))"
#define PATTERN_PATH "(/([A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+)*"
/* of letters, digits, -._~ and /, and of the NUL byte */
#define PATTERN_NO_PLAIN_ESCAPES "(?!.*%(00|2[D-Fd-f]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee]))"

SCHEMA(address)
{
    weir_conf_schema_text(
        json, "^((\\*|localhost|" WEIR_CONF_PATTERN_V4 "|" PATTERN_V6 "):" PATTERN_PORT "|" PATTERN_UNIX ")$", NULL,
        NULL, false);
}

static const weir_conf_type_t one_server = {.what = "an address",
                                            .right = "write a host and a port, such as redis:6379, or unix:///path"};

PARSE(server_addresses)
{
    weir_conf_strings_t *addresses = weir_conf_member(field, row);
    if (!weir_conf_begin_list(load, field, node, sizeof(char *), &addresses->entries))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        const char *text = child->kind != WEIR_CONF_BROKEN ? weir_conf_scalar(load, &one_server, child) : NULL;
        const char *right = text != NULL ? weir_conf_parse_server_address(text, load->scratch) : NULL;
        if (right != NULL)
            weir_conf_fail_value(load, child, one_server.what, right);
        if (text == NULL || right != NULL)
            continue;
        for (size_t i = 0; i < addresses->size; ++i)
            if (strcmp(addresses->entries[i], text) == 0)
                weir_conf_fail_twice(load, child, text);
        addresses->entries[addresses->size++] = weir_conf_keep(load, text);
    }
}

PRINT(server_addresses)
{
    weir_conf_print_strings(out, weir_conf_member_const(field, row));
}

SCHEMA(server_addresses)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_schema_items(json, "^((" PATTERN_HOST "|" PATTERN_V6 "):" PATTERN_PORT "|" PATTERN_UNIX ")$", false);
}

PARSE(url)
{
    weir_conf_upstream_t *upstream = row;
    const char *text = weir_conf_scalar(load, field->type, node);
    if (text == NULL)
        return;
    weir_conf_url_t url = {0};
    const char *right = weir_conf_parse_url(text, load->arena, &url, &upstream->prefix);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else
        upstream->url = url;
}

PRINT(url)
{
    const weir_conf_url_t *url = weir_conf_member_const(field, row);
    weir_conf_print_text(out, url->text);
}

SCHEMA(url)
{
    weir_conf_schema_text(json,
                          "^(" PATTERN_NO_DOTS "https?://(" PATTERN_HOST "|" PATTERN_V6 ")(:" PATTERN_PORT
                          ")?" PATTERN_PATH "/?|" PATTERN_UNIX ")$",
                          NULL, NULL, false);
}

PARSE(prefix)
{
    const weir_conf_upstream_t *upstream = row;
    if (upstream->url.kind == WEIR_UPSTREAM_UNIX)
        weir_conf_set_text_of(load, field, node, row, weir_conf_parse_prefix);
    else if (upstream->url.text != NULL)
        weir_conf_fail_key(load, node, "is for unix sockets; write the path in the url, such as http://agent:9000/v1");
}

PRINT(prefix)
{
    const weir_conf_upstream_t *upstream = row;
    bool is_of_url = upstream->url.kind == WEIR_UPSTREAM_HTTP || *upstream->prefix == '\0';
    weir_conf_print_text(out, is_of_url ? NULL : upstream->prefix);
}

SCHEMA(prefix)
{
    weir_conf_schema_text(json, "^" PATTERN_NO_DOTS PATTERN_PATH "$", field->min, field->max, false);
}

PARSE(path)
{
    const char *text = weir_conf_load_text_of(load, field, node, weir_conf_parse_path);
    if (text == NULL)
        return;
    size_t len = strlen(text);
    if (len > 1 && text[len - 1] == '/')
        --len;
    *(const char **)weir_conf_member(field, row) = weir_conf_arena_copy(load->arena, text, len);
}

SCHEMA(path)
{
    weir_conf_schema_text(json, "^" PATTERN_NO_DOTS PATTERN_NO_PLAIN_ESCAPES "(/|" PATTERN_PATH "/?)$", field->min,
                          field->max, false);
}

PARSE(host_name)
{
    const char *text = weir_conf_load_text_of(load, field, node, weir_conf_parse_host_name);
    if (text == NULL)
        return;
    char *host = weir_conf_arena_copy(load->arena, text, strlen(text));
    for (char *at = host; *at != '\0'; ++at)
        *at = (char)tolower((unsigned char)*at);
    *(const char **)weir_conf_member(field, row) = host;
}

SCHEMA(host_name)
{
    weir_conf_schema_text(json, "^(" PATTERN_HOST "|" PATTERN_V6 ")$", field->min, field->max, false);
}

PARSE(upstream_name)
{
    const weir_conf_t *conf = load->conf;
    const char *text = weir_conf_scalar(load, field->type, node);
    if (text == NULL)
        return;
    const char **names = weir_conf_arena_alloc(load->scratch, conf->upstreams.size * sizeof(*names));
    for (size_t i = 0; i < conf->upstreams.size; ++i)
        names[i] = conf->upstreams.entries[i].name;
    *(size_t *)weir_conf_member(field, row) =
        weir_conf_find_name(load, node, false, text, "an upstream", "upstreams", names, conf->upstreams.size);
}

PRINT(upstream_name)
{
    size_t index = *(const size_t *)weir_conf_member_const(field, row);
    fprintf(out, " %s\n", conf->upstreams.entries[index].name);
}

SCHEMA(upstream_name)
{
    weir_conf_schema_text(json, WEIR_CONF_PATTERN_NAME, NULL, NULL, false);
}

/* ---- the types ---- */

DEFINE_TYPE(address, "an address", "write an address and a port, such as 127.0.0.1:8080 or \"*:8080\", or unix:///path",
            NULL, parse_address, print_address, schema_address)
DEFINE_TYPE(server_addresses, "a list of addresses", "write such as [127.0.0.1:6379], or [unix:///run/redis.sock]", "entries",
            parse_server_addresses, print_server_addresses, schema_server_addresses)
DEFINE_TYPE(url, "a url", "write http://host:port, https://host or unix:///path", NULL, parse_url, print_url,
            schema_url)
DEFINE_TYPE(prefix, "a path", "write one that begins with /", "bytes", parse_prefix, print_prefix, schema_prefix)
DEFINE_TYPE(path, "a path", "write one that begins with /", "bytes", parse_path, weir_conf_print_text_field,
            schema_path)
DEFINE_TYPE(host_name, "a host", "write a name, such as api.example.com", "bytes", parse_host_name,
            weir_conf_print_text_field, schema_host_name)
DEFINE_TYPE(upstream_name, "the name of an upstream", "write the name of one of the upstreams", NULL,
            parse_upstream_name, print_upstream_name, schema_upstream_name)
