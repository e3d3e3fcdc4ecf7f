# Proves that what `winnow new` writes builds and validates as it is: installs the build tree BUILD
# under a scratch prefix, and makes, builds and tests a new plugin with nothing but that prefix.
cmake_minimum_required(VERSION 3.22)
set(scratch ${BUILD}/tests/new_plugin)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\nended with ${result}:\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${scratch})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${scratch}/prefix --config ${CONFIG})
run(${scratch}/prefix/bin/winnow new my_method -d ${scratch}/my_method)
run(${CMAKE_COMMAND} -S ${scratch}/my_method -B ${scratch}/build -DCMAKE_PREFIX_PATH=${scratch}/prefix
  "-DCMAKE_C_FLAGS=-Wall -Wextra -Wstrict-prototypes -Werror")
run(${CMAKE_COMMAND} --build ${scratch}/build)
run(${CMAKE_CTEST_COMMAND} --test-dir ${scratch}/build --output-on-failure --no-tests=error)
