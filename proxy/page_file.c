#include "page_file.h"

#include <assert.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include "page.h"

static char policy[512];

/* 'sha256-...' of what stands between the tags, of which there is one pair (CSP level 3, 6.7.3.3). */
static void write_hash(FILE *file, const char *start_tag, const char *end_tag)
{
    const char *start = strstr(weir_page_file_text, start_tag);
    assert(start != NULL);
    start += strlen(start_tag);
    const char *end = strstr(start, end_tag);
    assert(end != NULL);
    unsigned char digest[32], base64[48];
    int made = EVP_Digest(start, (size_t)(end - start), digest, NULL, EVP_sha256(), NULL);
    assert(made == 1);
    EVP_EncodeBlock(base64, digest, sizeof(digest));
    fprintf(file, "'sha256-%s'", base64);
}

static void write_policy(void)
{
    FILE *file = fmemopen(policy, sizeof(policy), "w");
    assert(file != NULL);
    fputs("default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src ", file);
    write_hash(file, "<script>", "</script>");
    fputs("; style-src ", file);
    write_hash(file, "<style>", "</style>");
    int failed = fclose(file);
    assert(failed == 0);
}

void weir_page_file_answer(h2o_req_t *req, int status)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, write_policy);
    weir_page_add_field(req, "content-security-policy", policy);
    weir_page_add_field(req, "referrer-policy", "no-referrer");
    weir_page_answer(req, status, "text/html; charset=utf-8", h2o_iovec_init(weir_page_file_text, strlen(weir_page_file_text)));
}
