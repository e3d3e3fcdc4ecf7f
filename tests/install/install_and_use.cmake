# Installs the build tree BUILD under a scratch prefix, copies consumer/ out of the source tree, and
# configures, builds and runs it there with the prefix as its only knowledge of Winnow.
cmake_minimum_required(VERSION 3.22)
set(scratch ${BUILD}/tests/installed)
set(prefix ${scratch}/prefix)
set(project ${scratch}/project)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\nended with ${result}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${scratch})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix} --config ${CONFIG})

# What is installed must not know where it was built, nor what it was built with.
file(GLOB_RECURSE scripts ${prefix}/*.cmake)
foreach(script ${scripts})
  file(READ ${script} text)
  foreach(leak ${BUILD} ${SOURCE} winnow_flags PkgConfig OpenMP dlpack uthash)
    if(text MATCHES "${leak}")
      message(FATAL_ERROR "${script} mentions ${leak}")
    endif()
  endforeach()
endforeach()
file(GLOB_RECURSE headers RELATIVE ${prefix}/include ${prefix}/include/*)
foreach(header ${headers})
  if(NOT header MATCHES "^winnow/[a-z_]+\\.h$")
    message(FATAL_ERROR "include/${header} was installed")
  endif()
endforeach()

# The plugin is the one of the loader's tests, without its mistakes.
file(COPY ${CMAKE_CURRENT_LIST_DIR}/consumer/ DESTINATION ${project})
file(COPY_FILE ${SOURCE}/tests/core/bad_plugin/bad_plugin.c ${project}/sample.c)
set(flags "")
if(SANITIZE)
  set(flags -DCMAKE_C_FLAGS=-fsanitize=address,undefined
            -DCMAKE_CXX_FLAGS=-fsanitize=address,undefined -DWINNOW_SANITIZE=ON)
endif()
run(${CMAKE_COMMAND} -S ${project} -B ${project}/build -G ${GENERATOR} ${flags}
  -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_EXPORT_COMPILE_COMMANDS=ON)
run(${CMAKE_COMMAND} --build ${project}/build)
foreach(leak abi/include core/include)
  file(READ ${project}/build/compile_commands.json commands)
  if(commands MATCHES "${SOURCE}/${leak}")
    message(FATAL_ERROR "the project includes from ${SOURCE}/${leak}")
  endif()
endforeach()

# The host begins with an empty plugin directory and drops the plugin in while it runs.
file(MAKE_DIRECTORY ${scratch}/plugins)
file(CHMOD ${scratch}/plugins DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
run(${project}/build/host ${scratch}/plugins ${project}/build/sample.so)
message("${output}")
run(${project}/build/host_cpp)
message("${output}")
