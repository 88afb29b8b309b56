#include "client_ip.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

static bool is_address(int family, weir_str_t text)
{
    char terminated[INET6_ADDRSTRLEN];
    unsigned char address[16];
    if (text.len >= sizeof(terminated) || memchr(text.base, '\0', text.len) != NULL)
        return false;
    memcpy(terminated, text.base, text.len);
    terminated[text.len] = '\0';
    return inet_pton(family, terminated, address) == 1;
}

static weir_str_t trim(weir_str_t text)
{
    while (text.len != 0 && (text.base[0] == ' ' || text.base[0] == '\t'))
        text = (weir_str_t){text.base + 1, text.len - 1};
    while (text.len != 0 && (text.base[text.len - 1] == ' ' || text.base[text.len - 1] == '\t'))
        --text.len;
    return text;
}

static bool is_port(weir_str_t text)
{
    for (size_t i = 0; i < text.len; ++i)
        if (text.base[i] < '0' || text.base[i] > '9')
            return false;
    return text.len >= 1 && text.len <= 5;
}

/* Without its port and brackets; as it is where it has none, or none that is right. */
static weir_str_t without_port(weir_str_t text)
{
    const char *colon = memrchr(text.base, ':', text.len);
    weir_str_t host = text;
    if (colon != NULL && is_port((weir_str_t){colon + 1, text.len - (size_t)(colon + 1 - text.base)}))
        host.len = (size_t)(colon - text.base);
    if (host.len >= 2 && host.base[0] == '[' && host.base[host.len - 1] == ']')
        return (weir_str_t){host.base + 1, host.len - 2};
    return memchr(host.base, ':', host.len) == NULL ? host : text; /* the last group of an IPv6 address is no port */
}

/* IPv4 as IPv4, so that an address is one key whichever socket it came by. */
static weir_str_t without_mapping(weir_str_t text)
{
    static const char mapped[] = "::ffff:";
    size_t len = sizeof(mapped) - 1;
    if (text.len <= len || strncasecmp(text.base, mapped, len) != 0)
        return text;
    weir_str_t rest = {text.base + len, text.len - len};
    return is_address(AF_INET, rest) ? rest : text;
}

/* The element of the list that is the n-th from the right; false: it is shorter. */
static bool find_element(const weir_request_t *request, weir_str_t name, size_t n, weir_str_t *element)
{
    for (size_t i = request->field_count; i-- != 0;) {
        const weir_field_t *field = &request->fields[i];
        if (field->name->len != name.len || strncasecmp(field->name->base, name.base, name.len) != 0)
            continue;
        for (weir_str_t rest = field->value;;) {
            const char *comma = memrchr(rest.base, ',', rest.len);
            size_t at = comma != NULL ? (size_t)(comma + 1 - rest.base) : 0;
            *element = (weir_str_t){rest.base + at, rest.len - at};
            if (--n == 0)
                return true;
            if (comma == NULL)
                break;
            rest.len = at - 1;
        }
    }
    return false;
}

weir_str_t weir_client_ip(weir_request_t *request, weir_str_t peer_text)
{
    const weir_conf_client_ip_t *conf = &request->conf->server.client_ip;
    weir_str_t peer = without_mapping(peer_text), element;
    if (conf->header == NULL || conf->trusted_hops <= 0)
        return peer;
    weir_str_t name = {conf->header, strlen(conf->header)};
    if (!find_element(request, name, (size_t)conf->trusted_hops, &element))
        return peer;
    element = without_port(trim(element));
    return is_address(AF_INET, element) || is_address(AF_INET6, element) ? without_mapping(element) : peer;
}
