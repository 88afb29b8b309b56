#ifndef WEIR_FILTERS_CLIENT_IP_H
#define WEIR_FILTERS_CLIENT_IP_H

/* The caller's address, as server.client_ip says where it is found.
 *
 * `trusted_hops` is the number of proxies in front of weir that each add to `header` the address they were called
 * from. So with n of them the address is the n-th of the list, counted from the right, the fields of that name taken
 * together in their order: what stands further left is a caller's own word. 0 is no proxy: the peer. (Envoy counts
 * so with xff_num_trusted_hops and use_remote_address.)
 *
 * Guarantee: an IPv4 or IPv6 address that is the peer's, or that the n-th proxy wrote. The peer's where no header is
 * configured, and where the list is shorter or has no address at that place. Who sets trusted_hops says that nobody
 * gets past those proxies; tenant.trusted has no part in it. An address may have a port (1.2.3.4:80, [::1]:80); it is cut off, and so is the ::ffff: of an IPv4-mapped one. */

#include "filter.h"

/* `peer_text`: the peer's address as text, or what stands for it on a unix socket. Returns memory of the request's
 * fields or of `peer_text`. Called before the chain. */
weir_str_t weir_client_ip(weir_request_t *request, weir_str_t peer_text);

#endif
