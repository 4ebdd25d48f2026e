# An example of a site file: copy it, set what your cluster needs, then   cmake -B build -C my-site.cmake
# All variables, with their meaning and defaults, are in site.cmake.
set(HPCME_PARTITION "gpu" CACHE STRING "")
set(HPCME_ACCOUNT "abc123" CACHE STRING "")
set(HPCME_TIME "12:00:00" CACHE STRING "")
set(HPCME_GPUS_PER_NODE "4" CACHE STRING "")
set(HPCME_TASKS "4" CACHE STRING "")
set(HPCME_CPUS_PER_TASK "8" CACHE STRING "")
set(HPCME_MODULES "cuda/12" CACHE STRING "")
set(HPCME_SBATCH_EXTRA "--mail-type=END,FAIL" CACHE STRING "")
