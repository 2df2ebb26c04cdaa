// Runs a network that was compiled with
//
//     qcc compile model.onnx --target host --name network -o network/
//
// The context and the arena lie in memory of this program, and two threads share one run.
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "network.h"

class Network {
public:
    explicit Network(int threads) {
        if (network_init(&context, storage, arena, threads) != network_OK) throw std::runtime_error(network_error(nullptr));
    }
    ~Network() { network_close(context); }
    Network(const Network &) = delete;
    Network &operator=(const Network &) = delete;

    void selftest() { check(network_selftest(context)); }

    std::vector<std::vector<unsigned char>> run(const std::vector<const void *> &inputs) {
        std::vector<std::vector<unsigned char>> results;
        std::vector<void *> outputs;
        for (int i = 0; i < network_outputs(); ++i) {
            results.emplace_back(network_output(i)->bytes);
            outputs.push_back(results.back().data());
        }
        check(network_run(context, inputs.data(), outputs.data()));
        return results;
    }

private:
    void check(int status) const {
        if (status != network_OK) throw std::runtime_error(network_error(context));
    }

    alignas(network_ALIGNMENT) unsigned char storage[network_CONTEXT_BYTES];
    alignas(network_ALIGNMENT) unsigned char arena[network_ARENA_BYTES];
    network_context *context = nullptr;
};

int main() {
    try {
        static Network network(2);
        network.selftest();
        std::vector<std::vector<unsigned char>> arrays;
        std::vector<const void *> inputs;
        for (int i = 0; i < network_inputs(); ++i) {
            arrays.emplace_back(network_input(i)->bytes);
            inputs.push_back(arrays.back().data());
        }
        const auto results = network.run(inputs);
        for (int i = 0; i < network_outputs(); ++i)
            std::printf("%s: %s, %zu bytes\n", network_output(i)->name, network_output(i)->dtype, results[static_cast<std::size_t>(i)].size());
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
