# What is different from cluster to cluster: the cache variables of a site, and the batch script made from them.
# Every variable can be given as -DNAME=value, in a file given with -C (see site-example.cmake), or in ccmake.

find_program(HPCME_PYTHON NAMES python3 python HINTS "${PROJECT_SOURCE_DIR}/.venv/bin" "$ENV{VIRTUAL_ENV}/bin"
             DOC "Python >= 3.11 that has hpcme installed")
if(NOT HPCME_PYTHON)
  message(FATAL_ERROR "No Python was found. Run jobs/quickstart.sh first, or give -DHPCME_PYTHON=/path/to/python.")
endif()
get_filename_component(HPCME_BIN_DIR "${HPCME_PYTHON}" DIRECTORY)

# FindMPI is not used on purpose: on a cluster it may pick srun or an MPI that is not the one of mpi4py.
find_program(HPCME_LAUNCHER NAMES mpiexec mpirun HINTS "${HPCME_BIN_DIR}"
             DOC "MPI launcher, full path: mpiexec of the MPI that mpi4py loads, or srun")
set(HPCME_LAUNCH_FLAGS "" CACHE STRING "Further arguments of the launcher, for example --mpi=pmi2 for srun")
set(HPCME_PARTITION "" CACHE STRING "Slurm partition; empty: the cluster's default")
set(HPCME_ACCOUNT "" CACHE STRING "Slurm account that is charged; empty: the user's default")
set(HPCME_QOS "" CACHE STRING "Slurm quality of service; empty: the default")
set(HPCME_TIME "01:00:00" CACHE STRING
    "Time limit of one part of a job, as Slurm writes it: minutes, HH:MM:SS or D-HH:MM:SS")
set(HPCME_TASKS "2" CACHE STRING "MPI ranks; with GPUs, one per GPU")
set(HPCME_CPUS_PER_TASK "1" CACHE STRING "CPU cores of a rank: its threads")
set(HPCME_GPUS_PER_NODE "0" CACHE STRING "GPUs of the job's node; 0: run on CPUs")
set(HPCME_MEMORY "" CACHE STRING "Memory of the node, as Slurm writes it (32G); empty: the cluster's default")
set(HPCME_MODULES "" CACHE STRING "Environment modules to load, separated by semicolons, for example cuda/12;gcc/13")
set(HPCME_SBATCH_EXTRA "" CACHE STRING "Further sbatch options, separated by semicolons, for example --constraint=a100")
set(HPCME_MAX_RESTARTS "20" CACHE STRING "How often a job may put itself back into the queue at its time limit")

foreach(name HPCME_TASKS HPCME_CPUS_PER_TASK)
  if(NOT "${${name}}" MATCHES "^[1-9][0-9]*$")
    message(FATAL_ERROR "${name}=${${name}} must be a whole number, at least 1.")
  endif()
endforeach()
foreach(name HPCME_GPUS_PER_NODE HPCME_MAX_RESTARTS)
  if(NOT "${${name}}" MATCHES "^[0-9]+$")
    message(FATAL_ERROR "${name}=${${name}} must be a whole number, 0 or more.")
  endif()
endforeach()
if(NOT HPCME_TIME MATCHES "^([0-9]+-)?[0-9]+(:[0-9][0-9]?)?(:[0-9][0-9])?$")
  message(FATAL_ERROR "HPCME_TIME=${HPCME_TIME} is not a Slurm time. Allowed: minutes, HH:MM:SS or D-HH:MM:SS.")
endif()
if(HPCME_GPUS_PER_NODE GREATER 0 AND HPCME_TASKS GREATER HPCME_GPUS_PER_NODE)
  message(FATAL_ERROR "HPCME_TASKS=${HPCME_TASKS} ranks cannot share HPCME_GPUS_PER_NODE=${HPCME_GPUS_PER_NODE} "
                      "GPU(s): every rank needs its own. Lower HPCME_TASKS.")
endif()
foreach(name HPCME_PARTITION HPCME_ACCOUNT HPCME_QOS HPCME_MEMORY)
  if("${${name}}" MATCHES "[ \t\n;\"']")
    message(FATAL_ERROR "${name}=\"${${name}}\" must be one word.")
  endif()
endforeach()

# One #SBATCH line for everything that is set. --gpus-per-node and not --gpus-per-task: the latter hides the GPUs of
# the other ranks from each other, which breaks their direct exchange.
set(HPCME_SBATCH_LINES "")
foreach(pair "partition HPCME_PARTITION" "account HPCME_ACCOUNT" "qos HPCME_QOS" "mem HPCME_MEMORY")
  string(REGEX MATCH "^([a-z]+) (.*)$" _ "${pair}")
  if(NOT "${${CMAKE_MATCH_2}}" STREQUAL "")
    string(APPEND HPCME_SBATCH_LINES "#SBATCH --${CMAKE_MATCH_1}=${${CMAKE_MATCH_2}}\n")
  endif()
endforeach()
if(HPCME_GPUS_PER_NODE GREATER 0)
  string(APPEND HPCME_SBATCH_LINES "#SBATCH --gpus-per-node=${HPCME_GPUS_PER_NODE}\n")
endif()
foreach(option IN LISTS HPCME_SBATCH_EXTRA)
  if(NOT option MATCHES "^-")
    message(FATAL_ERROR "HPCME_SBATCH_EXTRA has \"${option}\": every option must start with - .")
  endif()
  string(APPEND HPCME_SBATCH_LINES "#SBATCH ${option}\n")
endforeach()
set(HPCME_MODULE_LINES "")
foreach(module IN LISTS HPCME_MODULES)
  string(APPEND HPCME_MODULE_LINES "module load ${module}\n")
endforeach()

# Which signal a launcher hands on to its ranks. MPICH's (and Intel MPI's) mpiexec dies of SIGUSR2 and passes SIGTERM
# on; Open MPI's kills its ranks at SIGTERM and passes SIGUSR2 on, and so does srun. hpcme stops in good order at both.
set(HPCME_STOP_SIGNAL "USR2")
if(HPCME_LAUNCHER)
  execute_process(COMMAND "${HPCME_LAUNCHER}" --version OUTPUT_VARIABLE words ERROR_VARIABLE words RESULT_VARIABLE _)
  if(words MATCHES "HYDRA|MPICH|Intel")
    set(HPCME_STOP_SIGNAL "TERM")
  endif()
  configure_file("${CMAKE_CURRENT_LIST_DIR}/hpcme.sbatch.in" "${PROJECT_BINARY_DIR}/slurm/hpcme.sbatch" @ONLY)
  install(PROGRAMS "${PROJECT_BINARY_DIR}/slurm/hpcme.sbatch" DESTINATION share/hpcme/slurm)
else()
  message(WARNING "No mpiexec was found beside ${HPCME_PYTHON} or in PATH: no batch script is written and the mpi "
                  "tests are left out. Fix: pip install mpich, or give -DHPCME_LAUNCHER=/path/to/mpiexec.")
endif()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/jobs/" DESTINATION share/hpcme/jobs FILES_MATCHING PATTERN "*.toml")
