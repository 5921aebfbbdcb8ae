/* Serves `backend: "gpu_standin"` models: a GPU's timing without a GPU, as a backend of Triton's own kind.

   An execution lasts `base_ms` + `per_image_ms` x images, as the model's config says in its parameters, and leaves the
   processor alone meanwhile: as with a GPU, nearly nothing of what is measured beside it is its own. Queueing and
   batching are Triton's. What it answers is what `candidates.py` says in Python, number for number, and is explained
   there.

   Triton's C interface is declared here as far as it is used, so that building this needs a C compiler and nothing
   else. Its functions are in `tritonserver`, which loads this file. */

#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- Triton's interface to backends, version 1 ---- */

typedef struct TRITONSERVER_Error TRITONSERVER_Error;
typedef struct TRITONSERVER_Message TRITONSERVER_Message;
typedef struct TRITONBACKEND_Model TRITONBACKEND_Model;
typedef struct TRITONBACKEND_ModelInstance TRITONBACKEND_ModelInstance;
typedef struct TRITONBACKEND_Request TRITONBACKEND_Request;
typedef struct TRITONBACKEND_Response TRITONBACKEND_Response;
typedef struct TRITONBACKEND_Input TRITONBACKEND_Input;
typedef struct TRITONBACKEND_Output TRITONBACKEND_Output;

enum { ERROR_INTERNAL = 1, ERROR_INVALID_ARGUMENT = 3 };
enum { TYPE_UINT8 = 2, TYPE_INT32 = 8, TYPE_FP32 = 11 };
enum { MEMORY_CPU = 0, MEMORY_GPU = 2 };
enum { CONFIG_VERSION = 1, RESPONSE_FINAL = 1, REQUEST_RELEASE_ALL = 1 };

TRITONSERVER_Error *TRITONSERVER_ErrorNew(int code, const char *message);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *);
TRITONSERVER_Error *TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message *, const char **json, size_t *bytes);
TRITONSERVER_Error *TRITONSERVER_MessageDelete(TRITONSERVER_Message *);
TRITONSERVER_Error *TRITONBACKEND_ModelConfig(TRITONBACKEND_Model *, uint32_t version, TRITONSERVER_Message **);
TRITONSERVER_Error *TRITONBACKEND_ModelRepository(TRITONBACKEND_Model *, int *kind, const char **location);
TRITONSERVER_Error *TRITONBACKEND_ModelVersion(TRITONBACKEND_Model *, uint64_t *);
TRITONSERVER_Error *TRITONBACKEND_ModelState(TRITONBACKEND_Model *, void **);
TRITONSERVER_Error *TRITONBACKEND_ModelSetState(TRITONBACKEND_Model *, void *);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance *, TRITONBACKEND_Model **);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request *, bool success, uint64_t execute_start_ns,
    uint64_t compute_start_ns, uint64_t compute_end_ns, uint64_t execute_end_ns);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance *, uint64_t images, uint64_t execute_start_ns, uint64_t compute_start_ns,
    uint64_t compute_end_ns, uint64_t execute_end_ns);
TRITONSERVER_Error *TRITONBACKEND_RequestInput(TRITONBACKEND_Request *, const char *name, TRITONBACKEND_Input **);
TRITONSERVER_Error *TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request *, uint32_t *);
TRITONSERVER_Error *TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request *, uint32_t index, const char **);
TRITONSERVER_Error *TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *, uint32_t flags);
TRITONSERVER_Error *TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input *, const char **name, int *type, const int64_t **shape, uint32_t *dimensions, uint64_t *bytes,
    uint32_t *buffers);
TRITONSERVER_Error *TRITONBACKEND_InputBuffer(
    TRITONBACKEND_Input *, uint32_t index, const void **buffer, uint64_t *bytes, int *memory, int64_t *memory_id);
TRITONSERVER_Error *TRITONBACKEND_ResponseNew(TRITONBACKEND_Response **, TRITONBACKEND_Request *);
TRITONSERVER_Error *TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response *, TRITONBACKEND_Output **, const char *name, int type, const int64_t *shape,
    uint32_t dimensions);
TRITONSERVER_Error *TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output *, void **buffer, uint64_t bytes, int *memory, int64_t *memory_id);
TRITONSERVER_Error *TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *, uint32_t flags, TRITONSERVER_Error *);

/* What returns an error hands it to its caller, who deletes it or gives it to Triton. */
#define CHECK(call)                               \
    do {                                          \
        TRITONSERVER_Error *error_ = (call);      \
        if (error_ != NULL) return error_;        \
    } while (0)

static void forget(TRITONSERVER_Error *error) {
    if (error != NULL) TRITONSERVER_ErrorDelete(error);
}

/* ---- What it finds: see candidates.py ---- */

enum { COLUMNS = 4, ROWS = 2, DIGITS = COLUMNS * ROWS, LABELS = 16, CANDIDATES = 4 * DIGITS };
enum { SAMPLED_BYTES = 64 * 64 * 3 };

static uint32_t crc_tables[8][256];

__attribute__((constructor)) static void fill_crc_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        crc_tables[0][byte] = crc;
    }
    for (int table = 1; table < 8; table++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = crc_tables[table - 1][byte];
            crc_tables[table][byte] = before >> 8 ^ crc_tables[0][before & 0xFF];
        }
}

/* CRC-32 as zlib has it, eight bytes at a time: M. Kounavis, F. Berry, "A systematic approach to building high
   performance software-based CRC generators" (2005). */
static uint32_t crc32(uint32_t crc, const uint8_t *data, size_t bytes) {
    crc = ~crc;
    for (; bytes >= 8; data += 8, bytes -= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4); /* x86-64 is little-endian */
        memcpy(&high, data + 4, 4);
        low ^= crc;
        crc = crc_tables[7][low & 0xFF] ^ crc_tables[6][low >> 8 & 0xFF] ^ crc_tables[5][low >> 16 & 0xFF] ^
              crc_tables[4][low >> 24] ^ crc_tables[3][high & 0xFF] ^ crc_tables[2][high >> 8 & 0xFF] ^
              crc_tables[1][high >> 16 & 0xFF] ^ crc_tables[0][high >> 24];
    }
    for (; bytes; data++, bytes--) crc = crc >> 8 ^ crc_tables[0][(crc ^ *data) & 0xFF];
    return ~crc;
}

static uint32_t checksum(const uint8_t *pixels, int64_t height, int64_t width, uint64_t version) {
    int64_t row_bytes = width * 3;
    int64_t step = (height * row_bytes + SAMPLED_BYTES - 1) / SAMPLED_BYTES;
    uint32_t crc = (uint32_t)version - 1;
    for (int64_t row = 0; row < height; row += step) crc = crc32(crc, pixels + row * row_bytes, row_bytes);
    return crc;
}

static int digit_of(uint32_t number, int position) { return number >> 4 * (DIGITS - 1 - position) & 0xF; }

static void write_boxes(float (*boxes)[4], uint32_t number, int64_t height, int64_t width) {
    double cell_width = (double)width / (double)COLUMNS, cell_height = (double)height / (double)ROWS;
    for (int position = 0; position < DIGITS; position++) {
        float *box = boxes[position];
        box[0] = (float)(position % COLUMNS * cell_width);
        box[1] = (float)(position / COLUMNS * cell_height);
        box[2] = (float)(box[0] + cell_width * (digit_of(number, position) + 1) / (double)LABELS);
        box[3] = (float)(box[1] + cell_height);
    }
    for (int rest = DIGITS; rest < CANDIDATES; rest += DIGITS) memcpy(boxes[rest], boxes, DIGITS * sizeof *boxes);
}

/* The number at `index` of `count` that go from `first` to `last` in equal steps. */
static double between(double first, double last, int index, int count) {
    return index == count - 1 ? last : index * ((last - first) / (count - 1)) + first;
}

static void write_scores(float *scores, uint32_t number) {
    for (int position = 0; position < DIGITS; position++)
        scores[position] = (float)(between(0.95, 0.60, position, DIGITS) - digit_of(number, position) / 1000.0);
    for (int rest = DIGITS; rest < CANDIDATES; rest++)
        scores[rest] = (float)between(0.5, 0.01, rest - DIGITS, CANDIDATES - DIGITS);
}

static void write_class_ids(int32_t *class_ids, uint32_t number) {
    for (int candidate = 0; candidate < CANDIDATES; candidate++)
        class_ids[candidate] = digit_of(number, candidate % DIGITS);
}

/* ---- The model ---- */

typedef struct {
    uint64_t version;
    double base_ms;
    double per_image_ms;
} Model;

/* A number among the config's parameters. Triton writes the JSON itself, without a space, and every time alike. */
static TRITONSERVER_Error *read_parameter(const char *config, const char *name, double *value) {
    char wanted[64], *end;
    snprintf(wanted, sizeof wanted, "\"%s\":{\"string_value\":\"", name);
    const char *found = strstr(config, wanted);
    if (found != NULL) {
        found += strlen(wanted);
        *value = strtod(found, &end);
        if (end != found && *end == '"' && *value >= 0 && isfinite(*value)) return NULL;
    }
    char message[128];
    snprintf(message, sizeof message, "parameter '%s' must be a number of milliseconds, at least 0", name);
    return TRITONSERVER_ErrorNew(ERROR_INVALID_ARGUMENT, message);
}

static TRITONSERVER_Error *read_curve(TRITONBACKEND_Model *triton_model, Model *model) {
    TRITONSERVER_Message *message;
    CHECK(TRITONBACKEND_ModelConfig(triton_model, CONFIG_VERSION, &message));
    const char *json;
    size_t bytes;
    TRITONSERVER_Error *error = TRITONSERVER_MessageSerializeToJson(message, &json, &bytes);
    if (error == NULL) {
        char *config = strndup(json, bytes); /* Triton's has no zero at its end */
        if (config == NULL) error = TRITONSERVER_ErrorNew(ERROR_INTERNAL, "no memory for the config");
        if (error == NULL) error = read_parameter(config, "base_ms", &model->base_ms);
        if (error == NULL) error = read_parameter(config, "per_image_ms", &model->per_image_ms);
        free(config);
    }
    forget(TRITONSERVER_MessageDelete(message));
    return error;
}

/* A version whose folder holds a file named `broken` can't be loaded: for tests of what happens then. */
static TRITONSERVER_Error *refuse_broken(TRITONBACKEND_Model *triton_model, const Model *model) {
    int kind;
    const char *location;
    CHECK(TRITONBACKEND_ModelRepository(triton_model, &kind, &location));
    unsigned long long version = model->version;
    char path[4096], message[128];
    snprintf(path, sizeof path, "%s/%llu/broken", location, version);
    if (access(path, F_OK) != 0) return NULL;
    snprintf(message, sizeof message, "version %llu holds a file 'broken', and breaks", version);
    return TRITONSERVER_ErrorNew(ERROR_INVALID_ARGUMENT, message);
}

TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *triton_model) {
    Model read = {0};
    CHECK(TRITONBACKEND_ModelVersion(triton_model, &read.version));
    CHECK(refuse_broken(triton_model, &read));
    CHECK(read_curve(triton_model, &read));
    Model *model = malloc(sizeof *model);
    if (model == NULL) return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "no memory for the model");
    *model = read;
    return TRITONBACKEND_ModelSetState(triton_model, model);
}

TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *triton_model) {
    void *model;
    CHECK(TRITONBACKEND_ModelState(triton_model, &model));
    free(model);
    return NULL;
}

/* ---- Executions ---- */

/* The images of one request, uint8 (count, height, width, 3). */
typedef struct {
    const uint8_t *pixels;
    int64_t count, height, width;
} Images;

static TRITONSERVER_Error *read_images(TRITONBACKEND_Request *request, Images *images) {
    TRITONBACKEND_Input *input;
    const int64_t *shape;
    uint64_t bytes;
    uint32_t dimensions, buffers;
    int type;
    CHECK(TRITONBACKEND_RequestInput(request, "images", &input));
    CHECK(TRITONBACKEND_InputProperties(input, NULL, &type, &shape, &dimensions, &bytes, &buffers));
    if (type != TYPE_UINT8 || dimensions != 4 || shape[3] != 3)
        return TRITONSERVER_ErrorNew(ERROR_INVALID_ARGUMENT, "'images' must be uint8 of shape (n, height, width, 3)");
    images->count = shape[0], images->height = shape[1], images->width = shape[2];
    const void *buffer;
    int memory = MEMORY_CPU;
    int64_t memory_id = 0;
    CHECK(TRITONBACKEND_InputBuffer(input, 0, &buffer, &bytes, &memory, &memory_id));
    if (buffers != 1 || memory == MEMORY_GPU) /* no way into Triton is known that leads here */
        return TRITONSERVER_ErrorNew(ERROR_INVALID_ARGUMENT, "'images' must be one piece of the processor's memory");
    images->pixels = buffer;
    return NULL;
}

/* Room for one output in the response, (count, CANDIDATES) or (count, CANDIDATES, 4) values of four bytes. */
static TRITONSERVER_Error *add_output(
    TRITONBACKEND_Response *response, const char *name, int type, int64_t count, bool has_corners, void **buffer) {
    TRITONBACKEND_Output *output;
    int64_t shape[] = {count, CANDIDATES, 4}, memory_id = 0;
    int memory = MEMORY_CPU;
    CHECK(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape, has_corners ? 3 : 2));
    uint64_t bytes = (uint64_t)count * CANDIDATES * (has_corners ? 4 : 1) * 4;
    CHECK(TRITONBACKEND_OutputBuffer(output, buffer, bytes, &memory, &memory_id));
    return memory == MEMORY_GPU ? TRITONSERVER_ErrorNew(ERROR_INTERNAL, "outputs can't go to a GPU's memory") : NULL;
}

static TRITONSERVER_Error *add_outputs(
    TRITONBACKEND_Request *request, TRITONBACKEND_Response *response, const Images *images, const uint32_t *numbers) {
    uint32_t outputs;
    CHECK(TRITONBACKEND_RequestOutputCount(request, &outputs));
    for (uint32_t index = 0; index < outputs; index++) {
        const char *name;
        CHECK(TRITONBACKEND_RequestOutputName(request, index, &name));
        bool is_boxes = strcmp(name, "boxes") == 0, is_scores = strcmp(name, "scores") == 0;
        void *buffer;
        int type = is_boxes || is_scores ? TYPE_FP32 : TYPE_INT32;
        CHECK(add_output(response, name, type, images->count, is_boxes, &buffer));
        for (int64_t image = 0; image < images->count; image++) {
            int64_t begin = image * CANDIDATES;
            if (is_boxes) write_boxes((float(*)[4])buffer + begin, numbers[image], images->height, images->width);
            else if (is_scores) write_scores((float *)buffer + begin, numbers[image]);
            else write_class_ids((int32_t *)buffer + begin, numbers[image]);
        }
    }
    return NULL;
}

/* The response to a request, or NULL where Triton refused even that; what went wrong is in `error`. */
static TRITONBACKEND_Response *respond(
    TRITONBACKEND_Request *request, uint64_t version, uint64_t *images_in_all, TRITONSERVER_Error **error) {
    TRITONBACKEND_Response *response = NULL;
    Images images = {0};
    uint32_t *numbers = NULL;
    *error = TRITONBACKEND_ResponseNew(&response, request);
    if (*error != NULL) return NULL;
    *error = read_images(request, &images);
    if (*error == NULL) {
        numbers = malloc((size_t)images.count * sizeof *numbers + 1);
        if (numbers == NULL) *error = TRITONSERVER_ErrorNew(ERROR_INTERNAL, "no memory for the answer");
    }
    if (*error == NULL) {
        for (int64_t image = 0; image < images.count; image++) {
            const uint8_t *pixels = images.pixels + image * images.height * images.width * 3;
            numbers[image] = checksum(pixels, images.height, images.width, version);
        }
        *error = add_outputs(request, response, &images, numbers);
        *images_in_all += (uint64_t)images.count;
    }
    free(numbers);
    return response;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t moment_ns) {
    struct timespec moment = {(time_t)(moment_ns / 1000000000u), (long)(moment_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL) == EINTR) continue;
}

/* Answer the requests of a batch together, at the time at which a GPU would have them ready. */
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, const uint32_t count) {
    uint64_t started = now_ns(), images = 0;
    TRITONBACKEND_Model *triton_model;
    void *state;
    CHECK(TRITONBACKEND_ModelInstanceModel(instance, &triton_model)); /* Triton then answers the requests itself */
    CHECK(TRITONBACKEND_ModelState(triton_model, &state));
    const Model *model = state;
    TRITONBACKEND_Response *responses[count];
    TRITONSERVER_Error *errors[count];
    for (uint32_t index = 0; index < count; index++)
        responses[index] = respond(requests[index], model->version, &images, &errors[index]);
    sleep_until(started + (uint64_t)((model->base_ms + model->per_image_ms * (double)images) * 1e6));
    uint64_t ended = now_ns();
    for (uint32_t index = 0; index < count; index++) {
        bool is_good = errors[index] == NULL;
        if (responses[index] != NULL)
            forget(TRITONBACKEND_ResponseSend(responses[index], RESPONSE_FINAL, errors[index]));
        forget(errors[index]);
        forget(TRITONBACKEND_ModelInstanceReportStatistics(
            instance, requests[index], is_good, started, started, ended, ended));
        forget(TRITONBACKEND_RequestRelease(requests[index], REQUEST_RELEASE_ALL));
    }
    forget(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, images, started, started, ended, ended));
    return NULL;
}
