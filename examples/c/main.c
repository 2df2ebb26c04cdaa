/* Runs a network that was compiled with
 *
 *     qcc compile model.onnx --target host --name network -o network/
 *
 * It checks the library against its own golden pair, then classifies one array of float32 read from a file (or zeros).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "network.h"

static int read_input(const char *path, void *data, size_t bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return 0;
    size_t found = fread(data, 1, bytes, file);
    fclose(file);
    return found == bytes;
}

int main(int count, char **arguments) {
    network_context *context;
    if (network_init(&context, NULL, NULL, 1) != network_OK || network_selftest(context) != network_OK) {
        fprintf(stderr, "%s\n", network_error(context));
        network_close(context);
        return 1;
    }
    static unsigned char input[network_INPUT_0_BYTES], output[network_OUTPUT_0_BYTES];
    if (count > 1 && !read_input(arguments[1], input, sizeof input)) {
        fprintf(stderr, "%s: expected %zu bytes\n", arguments[1], sizeof input);
        network_close(context);
        return 2;
    }
    const void *inputs[network_INPUTS] = {input};
    void *outputs[network_OUTPUTS] = {output};
    /* This program shows one output; the others are computed too and need room. */
    for (int32_t i = 1; i < network_OUTPUTS; ++i) outputs[i] = malloc(network_output(i)->bytes);
    int status = network_run(context, inputs, outputs);
    if (status != network_OK) fprintf(stderr, "%s\n", network_error(context));
    const network_tensor *tensor = network_output(0);
    printf("%s: %s, %zu bytes\n", tensor->name, tensor->dtype, tensor->bytes);
    for (size_t i = 0; tensor->dtype[0] == 'f' && i < network_OUTPUT_0_ELEMENTS && i < 10; ++i) {
        float value;
        memcpy(&value, output + i * sizeof value, sizeof value);
        printf("%g\n", value);
    }
    for (int32_t i = 1; i < network_OUTPUTS; ++i) free(outputs[i]);
    network_close(context);
    return status != network_OK;
}
