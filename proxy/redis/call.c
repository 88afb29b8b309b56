/* Calls of scripts: asked by SHA-1, or with the text where that is not known; the answers as values. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../number.h"
#include "side.h"

enum { WORDS_FEW = 96, VALUES_FEW = 96 }; /* are on the stack */

/* --- replies as values --- */

static size_t count_values(const redisReply *reply)
{
    size_t count = 1;
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; ++i)
        count += count_values(reply->element[i]);
    return count;
}

/* Its entries are taken from *free on. */
static weir_remote_value_t value_of(const redisReply *reply, weir_remote_value_t **free)
{
    switch (reply->type) {
    case REDIS_REPLY_INTEGER:
        return (weir_remote_value_t){.kind = WEIR_REMOTE_INTEGER, .integer = reply->integer};
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        return (weir_remote_value_t){.kind = WEIR_REMOTE_TEXT, .text = {reply->str, reply->len}};
    case REDIS_REPLY_ARRAY:
        break;
    default:
        return (weir_remote_value_t){.kind = WEIR_REMOTE_NIL};
    }
    weir_remote_value_t *entries = *free;
    *free += reply->elements;
    for (size_t i = 0; i < reply->elements; ++i)
        entries[i] = value_of(reply->element[i], free);
    return (weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = entries, .size = reply->elements};
}

static void tell_answer(weir_redis_call_t *call, const redisReply *reply)
{
    weir_remote_value_t few[VALUES_FEW], *values = few;
    if (call->on_end == NULL) {
        weir_redis_call_end(call, WEIR_REMOTE_ANSWERED, NULL);
        return;
    }
    size_t count = count_values(reply);
    if (count > VALUES_FEW)
        values = h2o_mem_alloc(count * sizeof(*values));
    weir_remote_value_t *free_ones = values + 1;
    values[0] = value_of(reply, &free_ones);
    weir_redis_call_end(call, WEIR_REMOTE_ANSWERED, values);
    if (values != few)
        free(values);
}

/* --- their end --- */

static void count_up(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* The metrics are the link's. */
static void count_end(weir_redis_side_t *side, const weir_redis_call_t *call, weir_remote_told_t told)
{
    if (call->command.is_late)
        count_up(&side->timeout);
    else
        count_up(told == WEIR_REMOTE_ANSWERED ? &side->ok : &side->error);
}

void weir_redis_call_end(weir_redis_call_t *call, weir_remote_told_t told, const weir_remote_value_t *value)
{
    --call->side->in_flight;
    count_end(call->side, call, told);
    if (call->on_end != NULL)
        call->on_end(call->context, told, value, weir_clock_turn_ns);
    free(call->text);
    free(call);
}

/* --- on their way --- */

static void on_asking(weir_redis_command_t *command, weir_redis_told_t told, const redisReply *reply)
{
    free(command);
}

static void send_asking(weir_redis_node_t *node, int64_t timeout_ns)
{
    static const char text[] = "*1\r\n$6\r\nASKING\r\n";
    weir_redis_command_t *command = h2o_mem_alloc(sizeof(*command));
    *command = (weir_redis_command_t){.bytes = text, .len = sizeof(text) - 1, .on_reply = on_asking};
    weir_redis_node_send(node, command, timeout_ns);
}

void weir_redis_call_send(weir_redis_call_t *call, weir_redis_node_t *node)
{
    if (call->is_asking)
        send_asking(node, call->timeout_ns);
    call->node = node;
    ++node->in_flight;
    weir_redis_node_send(node, &call->command, call->timeout_ns);
}

/* EVALSHA's header and arguments are EVAL's, but for these two words. */
static void make_text(weir_redis_call_t *call)
{
    const weir_script_text_t *script = &weir_script_texts[call->script];
    const char *header_end = strchr(call->bytes, '\n') + 1;
    size_t header_len = (size_t)(header_end - call->bytes), rest_len = call->len - call->rest_at;
    call->text = h2o_mem_alloc(header_len + script->len + rest_len + 48);
    int len = sprintf(call->text, "%.*s$4\r\nEVAL\r\n$%zu\r\n", (int)header_len, call->bytes, script->len);
    char *at = call->text + len;
    memcpy(at, script->text, script->len);
    at += script->len;
    memcpy(at, "\r\n", 2);
    memcpy(at + 2, call->bytes + call->rest_at, rest_len);
    call->command.bytes = call->text;
    call->command.len = (size_t)(at + 2 - call->text) + rest_len;
}

/* The server does not know the script: it gets the text once. What is sent behind that will find it known. */
static bool load(weir_redis_call_t *call)
{
    weir_redis_node_t *node = call->node;
    uint32_t bit = UINT32_C(1) << call->script;
    if (call->text != NULL || call->hops++ >= WEIR_REDIS_HOPS_MAX || !weir_redis_node_is_up(node))
        return false;
    if ((node->loading & bit) == 0) {
        make_text(call);
        node->loading |= bit;
        call->is_loading = true;
    }
    weir_redis_call_send(call, node);
    return true;
}

static void on_error(weir_redis_call_t *call, const char *error)
{
    const weir_redis_way_t *way = weir_redis_way_of(call->side);
    if (strncmp(error, "NOSCRIPT", 8) == 0 && load(call))
        return;
    if (way->take_error != NULL && way->take_error(call->side->way, call, error))
        return;
    if (weir_redis_is_of_server(error))
        weir_redis_node_refuse(call->node, error);
    weir_redis_call_end(call, WEIR_REMOTE_REFUSED, NULL);
}

static void on_reply(weir_redis_command_t *command, weir_redis_told_t told, const redisReply *reply)
{
    weir_redis_call_t *call = (weir_redis_call_t *)command;
    --call->node->in_flight;
    if (call->is_loading)
        call->node->loading &= ~(UINT32_C(1) << call->script);
    call->is_loading = false;
    if (told == WEIR_REDIS_LOST)
        weir_redis_call_end(call, WEIR_REMOTE_LOST, NULL);
    else if (reply->type == REDIS_REPLY_ERROR)
        on_error(call, reply->str);
    else
        tell_answer(call, reply);
}

/* --- their beginning --- */

/* EVALSHA sha1 numkeys key... arg... */
static void fill_words(const char *sha1, const weir_remote_ask_t *ask, char number[24], weir_str_t *words)
{
    words[0] = (weir_str_t){"EVALSHA", 7};
    words[1] = (weir_str_t){sha1, WEIR_REDIS_SHA1_HEX};
    words[2] = (weir_str_t){number, weir_number_decimal(number, ask->key_count)};
    if (ask->key_count != 0)
        memcpy(words + 3, ask->keys, ask->key_count * sizeof(*words));
    if (ask->arg_count != 0)
        memcpy(words + 3 + ask->key_count, ask->args, ask->arg_count * sizeof(*words));
}

static weir_redis_call_t *create(weir_redis_side_t *side, const char *sha1, const weir_remote_ask_t *ask, uint16_t slot)
{
    enum { VERB_BYTES = sizeof("$7\r\nEVALSHA\r\n$40\r\n") - 1 + WEIR_REDIS_SHA1_HEX + 2 };
    char number[24];
    size_t count = 3 + ask->key_count + ask->arg_count;
    weir_str_t few[WORDS_FEW], *words = count <= WORDS_FEW ? few : h2o_mem_alloc(count * sizeof(*words));
    fill_words(sha1, ask, number, words);
    size_t size = weir_redis_format_size(words, count);
    weir_redis_call_t *call = h2o_mem_alloc(sizeof(*call) + size);
    *call = (weir_redis_call_t){.side = side,
                                .on_end = ask->on_end,
                                .context = ask->context,
                                .timeout_ns = ask->timeout_ns,
                                .asked_ns = weir_clock_turn_ns,
                                .script = ask->script,
                                .slot = slot};
    call->len = weir_redis_format(call->bytes, words, count);
    call->rest_at = (size_t)((const char *)memchr(call->bytes, '\n', call->len) + 1 - call->bytes) + VERB_BYTES;
    call->command = (weir_redis_command_t){.bytes = call->bytes, .len = call->len, .on_reply = on_reply};
    if (words != few)
        free(words);
    return call;
}

void weir_redis_call_begin(weir_redis_node_t *node, const char *sha1, const weir_remote_ask_t *ask, uint16_t slot)
{
    weir_redis_call_t *call = create(node->side, sha1, ask, slot);
    ++node->side->in_flight;
    weir_redis_call_send(call, node);
}
