/* A driver's NVML with one GPU at 0000:c1:00.0, which draws 250 W. The file FAKE_NVML names says how it behaves:
 * "old" without the counter of energy, "lost", "hangs"; anything else is well. The rest of the ABI is as in nvml.h. */
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef int nvmlReturn_t;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_IS_LOST = 15 };

#define MILLIWATTS 250000u
static int initialised;
static char device;

static int behaves(const char *word) {
    char text[16] = "";
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    if (file) {
        if (!fgets(text, sizeof text, file)) text[0] = 0;
        fclose(file);
    }
    return !strcmp(text, word);
}

nvmlReturn_t nvmlInit_v2(void) {
    initialised = 1;
    return SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result) { return result == GPU_IS_LOST ? "GPU is lost" : "Unknown Error"; }

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *found) {
    if (!initialised) return UNINITIALIZED;
    if (strcmp(bus_id, "0000:c1:00.0")) return NOT_FOUND;
    *found = (nvmlDevice_t)&device;
    return SUCCESS;
}

static nvmlReturn_t ready(nvmlDevice_t which) {
    while (behaves("hangs")) usleep(1000);
    if (which != (nvmlDevice_t)&device) return INVALID_ARGUMENT;
    return behaves("lost") ? GPU_IS_LOST : SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t which, unsigned long long *millijoules) {
    struct timespec now;
    nvmlReturn_t result = ready(which);
    if (result != SUCCESS) return result;
    if (behaves("old")) return NOT_SUPPORTED;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = (5ULL << 40) + (now.tv_sec * 1000ULL + now.tv_nsec / 1000000) * (MILLIWATTS / 1000);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t which, unsigned int *milliwatts) {
    nvmlReturn_t result = ready(which);
    if (result == SUCCESS) *milliwatts = MILLIWATTS;
    return result;
}
