# Finds the torch of the active Python: Python3_EXECUTABLE if given, else `python3` on the PATH (a virtual environment
# that is active comes first there).
#
# Defines
#   TORCH_ROOT          folder of the Python package
#   TORCH_VERSION       such as 2.13.0
#   TORCH_INCLUDE_DIRS  headers
#   torch               imported target: libtorch for C++ programs, with headers and link options
#   torch_stable        imported target: headers and libtorch_cpu, for code that uses the stable ABI alone
#   TORCH_LIBRARIES     torch, the target's name
#
# TorchConfig.cmake of a CUDA wheel demands a CUDA toolkit even of a program that uses the CPU only; here the libraries
# are taken as they lie in the package, which serves the CPU and the CUDA wheels alike, and takes no import of torch.
set(HSATTN_OLDEST_TORCH 2.10)  # torch_parallel_for and the options of new_empty are in the stable ABI from here on

if(NOT Python3_EXECUTABLE)
  find_program(Python3_EXECUTABLE python3 REQUIRED)
endif()

set(_find_torch "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')")
set(TORCH_ROOT "")
# The second try, with -E, looks past the PYTHONPATH by which an isolated build (`pip install .`) hides the environment.
foreach(_option -B -E)
  if(NOT TORCH_ROOT)
    execute_process(COMMAND ${Python3_EXECUTABLE} ${_option} -c "${_find_torch}" WORKING_DIRECTORY /
                    OUTPUT_VARIABLE TORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endforeach()
if(NOT TORCH_ROOT)
  message(FATAL_ERROR "hsattn: ${Python3_EXECUTABLE} has no torch; install it there (pip install torch==2.13.0) "
                      "or name another Python with -DPython3_EXECUTABLE=...")
endif()

set(TORCH_VERSION "")
foreach(_part MAJOR MINOR PATCH)
  file(STRINGS ${TORCH_ROOT}/include/torch/headeronly/version.h _line REGEX "define TORCH_VERSION_${_part} ")
  string(REGEX MATCH "[0-9]+$" _number "${_line}")
  list(APPEND TORCH_VERSION "${_number}")
endforeach()
string(REPLACE ";" "." TORCH_VERSION "${TORCH_VERSION}")
if(TORCH_VERSION VERSION_LESS HSATTN_OLDEST_TORCH)
  message(FATAL_ERROR "hsattn: torch in ${TORCH_ROOT} is '${TORCH_VERSION}'; ${HSATTN_OLDEST_TORCH} or newer is needed")
endif()

set(TORCH_INCLUDE_DIRS ${TORCH_ROOT}/include ${TORCH_ROOT}/include/torch/csrc/api/include)
foreach(_library torch_cpu c10)
  if(NOT TARGET torch_lib_${_library})
    add_library(torch_lib_${_library} SHARED IMPORTED)
    set_target_properties(torch_lib_${_library} PROPERTIES
      IMPORTED_LOCATION ${TORCH_ROOT}/lib/lib${_library}.so IMPORTED_NO_SONAME FALSE)
  endif()
endforeach()
if(NOT TARGET torch)
  add_library(torch INTERFACE IMPORTED)
  target_include_directories(torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  target_link_libraries(torch INTERFACE torch_lib_torch_cpu torch_lib_c10)
  # What a CUDA wheel's libraries need in turn is found at run time, by their own rpath.
  target_link_options(torch INTERFACE LINKER:--unresolved-symbols=ignore-in-shared-libs)
endif()
if(NOT TARGET torch_stable)
  add_library(torch_stable INTERFACE IMPORTED)
  target_include_directories(torch_stable SYSTEM INTERFACE ${TORCH_ROOT}/include)
  target_link_libraries(torch_stable INTERFACE torch_lib_torch_cpu)
endif()
set(TORCH_LIBRARIES torch)
message(STATUS "hsattn: torch ${TORCH_VERSION} in ${TORCH_ROOT}")
