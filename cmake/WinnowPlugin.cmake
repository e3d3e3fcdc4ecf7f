# winnow_add_plugin(NAME <algorithm> SOURCES <file>...): one shared object that keeps the linking
# rules of the plugin ABI (WN-P-01, -02, -03 in abi/README.md): one exported symbol, own symbols
# bound to itself, nothing left to be resolved late. Works in Winnow's own tree and, after
# find_package(winnow), in anybody's. Where testing is enabled and the winnow command is at hand,
# the validator becomes a test named validate.<algorithm>.
set(_winnow_plugin_map ${CMAKE_CURRENT_LIST_DIR}/plugin.map)

# The linking rules alone, for a target that was made otherwise.
function(winnow_plugin_linking target)
  set_target_properties(${target} PROPERTIES
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    SKIP_BUILD_RPATH ON INSTALL_RPATH "")
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${_winnow_plugin_map})
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-gnu-unique>)
  target_link_options(${target} PRIVATE
    -Wl,-Bsymbolic -Wl,-z,now -Wl,-z,relro -Wl,-z,noexecstack
    -Wl,--version-script=${_winnow_plugin_map})
  if(NOT WINNOW_SANITIZE) # the sanitizers' runtime is resolved late, by design
    target_link_options(${target} PRIVATE -Wl,-z,defs)
  endif()
endfunction()

function(winnow_add_plugin)
  cmake_parse_arguments(PARSE_ARGV 0 plugin "" "NAME" "SOURCES")
  if(NOT plugin_NAME OR NOT plugin_SOURCES OR plugin_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "usage: winnow_add_plugin(NAME algorithm SOURCES file...)")
  endif()
  set(target ${plugin_NAME}_winnow_plugin)
  add_library(${target} MODULE ${plugin_SOURCES})
  target_link_libraries(${target} PRIVATE winnow::abi m)
  set_target_properties(${target} PROPERTIES PREFIX "" OUTPUT_NAME ${plugin_NAME} SUFFIX .so)
  winnow_plugin_linking(${target})
  if(TARGET winnow_command)
    set(command $<TARGET_FILE:winnow_command>)
  elseif(WINNOW_COMMAND)
    set(command ${WINNOW_COMMAND})
  endif()
  if(command AND BUILD_TESTING)
    add_test(NAME validate.${plugin_NAME} COMMAND ${command} validate $<TARGET_FILE:${target}>)
  endif()
endfunction()
