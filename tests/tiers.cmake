# The test tiers, as CTest labels: serial, mpi (the same files at 1, 2 and 3 ranks; three catches whoever thinks in
# powers of two), restart (kill and resume), fault (runs that are broken on purpose), slurm (a real Slurm on this one
# machine), gpu and dsmts (the SBML stochastic test suite, in the folder that HPCME_DSMTS names). Every pytest run writes junit/NAME.xml, which tests/run.sh adds up.
# tiers.txt says for each tier whether this machine can run it: NAME|yes or NAME|no|REASON.
enable_testing()

set(HPCME_MPI_TEST_RANKS "1;2;3" CACHE STRING "Numbers of ranks at which the tests in tests/mpi run")
set(tests_dir "${PROJECT_SOURCE_DIR}/tests")
set(junit_dir "${PROJECT_BINARY_DIR}/junit")
file(MAKE_DIRECTORY "${junit_dir}")
set(tiers "")

# add_pytest(NAME LABEL label PROCESSORS n TIMEOUT seconds [ALONE] [UNDER launcher...] ARGS pytest-arguments...)
function(add_pytest name)
  cmake_parse_arguments(T "ALONE" "LABEL;PROCESSORS;TIMEOUT" "UNDER;ARGS" ${ARGN})
  if(T_UNDER)
    set(run ${T_UNDER})
  else()
    set(run "${HPCME_PYTHON}" -m pytest)
  endif()
  add_test(NAME ${name} WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
           COMMAND ${run} "--junitxml=${junit_dir}/${name}.xml" -p no:cacheprovider ${T_ARGS})
  # Exit code 5 of pytest: there is no such test among these files.
  set_tests_properties(${name} PROPERTIES LABELS ${T_LABEL} PROCESSORS ${T_PROCESSORS} TIMEOUT ${T_TIMEOUT}
                       SKIP_RETURN_CODE 5 ENVIRONMENT "OMP_NUM_THREADS=1")
  if(T_ALONE)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

# serial: one CTest test per area, which is the word after test_ in the name of a file
file(GLOB files RELATIVE "${PROJECT_SOURCE_DIR}" CONFIGURE_DEPENDS "${tests_dir}/test_*.py")
set(areas "")
foreach(file IN LISTS files)
  string(REGEX REPLACE "^tests/test_([a-zA-Z0-9]+).*$" "\\1" area "${file}")
  list(APPEND areas ${area})
  list(APPEND files_of_${area} "${file}")
endforeach()
list(REMOVE_DUPLICATES areas)
foreach(area IN LISTS areas)
  add_pytest(serial.${area} LABEL serial PROCESSORS 1 TIMEOUT 1200
             ARGS -m "not mpi and not restart and not fault and not slurm and not gpu and not dsmts" ${files_of_${area}})
endforeach()
list(APPEND tiers "serial|yes")

# mpi: tests that run on every rank, and tests that start a launcher themselves
file(GLOB mpi_files RELATIVE "${PROJECT_SOURCE_DIR}" CONFIGURE_DEPENDS "${tests_dir}/mpi/test_*.py")
if(HPCME_LAUNCHER)
  separate_arguments(flags UNIX_COMMAND "${HPCME_LAUNCH_FLAGS}")
  if(mpi_files)
    foreach(ranks IN LISTS HPCME_MPI_TEST_RANKS)
      add_pytest(mpi.${ranks} LABEL mpi PROCESSORS ${ranks} TIMEOUT 1200 ALONE
                 UNDER "${HPCME_LAUNCHER}" -n ${ranks} ${flags} "${HPCME_PYTHON}" -m mpi4py tests/mpi_pytest.py ${ranks}
                 ARGS -m "not gpu" ${mpi_files})
    endforeach()
  endif()
  add_pytest(mpi.launch LABEL mpi PROCESSORS 3 TIMEOUT 900 ALONE
             ARGS -m "mpi and not restart and not fault and not slurm and not gpu" ${files})
  list(APPEND tiers "mpi|yes")
else()
  list(APPEND tiers "mpi|no|there is no mpiexec beside ${HPCME_PYTHON} or in PATH (pip install mpich)")
endif()

# restart: runs that are killed and go on
add_pytest(restart LABEL restart PROCESSORS 2 TIMEOUT 1800 ALONE
           ARGS -m "restart and not fault and not slurm and not gpu" ${files})
list(APPEND tiers "restart|yes")

# fault: runs that are broken on purpose
add_pytest(fault LABEL fault PROCESSORS 2 TIMEOUT 1200 ALONE ARGS -m "fault and not slurm and not gpu" ${files})
list(APPEND tiers "fault|yes")

# slurm: needs root and Slurm's programs; tests/slurm/start.sh says what is missing, and starts nothing when asked only
execute_process(COMMAND bash "${tests_dir}/slurm/start.sh" --check OUTPUT_VARIABLE problem ERROR_VARIABLE problem
                RESULT_VARIABLE code OUTPUT_STRIP_TRAILING_WHITESPACE)
add_pytest(slurm LABEL slurm PROCESSORS 2 TIMEOUT 1800 ALONE ARGS -m "slurm and not gpu" ${files})
if(code EQUAL 0)
  list(APPEND tiers "slurm|yes")
else()
  set_tests_properties(slurm PROPERTIES DISABLED TRUE)
  list(APPEND tiers "slurm|no|${problem}")
endif()

# gpu: registered on every machine, switched off where torch sees no GPU
execute_process(COMMAND "${HPCME_PYTHON}" -c "import torch; print(torch.cuda.device_count())"
                OUTPUT_VARIABLE gpus ERROR_VARIABLE problem OUTPUT_STRIP_TRAILING_WHITESPACE)
add_pytest(gpu LABEL gpu PROCESSORS 1 TIMEOUT 900 ALONE ARGS -m gpu ${files})
if(gpus MATCHES "^[1-9]")
  list(APPEND tiers "gpu|yes")
elseif(gpus STREQUAL "0")
  set_tests_properties(gpu PROPERTIES DISABLED TRUE)
  list(APPEND tiers "gpu|no|torch sees no CUDA device here")
else()
  set_tests_properties(gpu PROPERTIES DISABLED TRUE)
  list(APPEND tiers "gpu|no|${HPCME_PYTHON} cannot import torch")
endif()

# dsmts: the suite is no part of this repository
add_pytest(dsmts LABEL dsmts PROCESSORS 1 TIMEOUT 5400 ARGS -m dsmts tests/test_dsmts.py)
file(GLOB cases "$ENV{HPCME_DSMTS}/[0-9]*")
if("$ENV{HPCME_DSMTS}" STREQUAL "")
  set(problem "HPCME_DSMTS does not name the folder of the SBML stochastic test suite")
elseif(NOT cases)
  set(problem "there are no cases in HPCME_DSMTS = $ENV{HPCME_DSMTS}")
else()
  set(problem "")
endif()
if(problem)
  set_tests_properties(dsmts PROPERTIES DISABLED TRUE)
  list(APPEND tiers "dsmts|no|${problem}")
else()
  set_tests_properties(dsmts PROPERTIES ENVIRONMENT "OMP_NUM_THREADS=1;HPCME_DSMTS=$ENV{HPCME_DSMTS}")
  list(APPEND tiers "dsmts|yes")
endif()

list(JOIN tiers "\n" lines)
file(WRITE "${PROJECT_BINARY_DIR}/tiers.txt" "${lines}\n")
