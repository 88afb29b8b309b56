#ifndef WEIR_PROXY_PAGE_FILE_H
#define WEIR_PROXY_PAGE_FILE_H

/* The status page for people: status.html as it was when weir was built. It holds no data; what it shows it asks for. */

#include <h2o.h>

/* The file's text, NUL-terminated. */
extern const char weir_page_file_text[];

/* Answers it with a Content-Security-Policy that runs its own script, uses its own style, and asks nobody but us. */
void weir_page_file_answer(h2o_req_t *req, int status);

#endif
