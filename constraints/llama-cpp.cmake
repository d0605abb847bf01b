# Read by llama-cpp-python's CMake project right after its `project()`: leaves out what only llama.cpp's programs use
# (common) and images (mtmd), 110 of 193 steps. A variable of this scope goes before the cache entry that the project
# sets by force.
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF)
