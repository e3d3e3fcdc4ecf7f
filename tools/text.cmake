# Gives a target a C source with a file's text as `const char NAME[]`, so that the installed command
# needs no file beside it and the file stays what it is, to be read and edited.
function(winnow_text target name file)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${name}.c)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  file(READ ${file} content)
  string(REPLACE "\\" "\\\\" content "${content}")
  string(REPLACE "\"" "\\\"" content "${content}")
  string(REPLACE "\n" "\\n\"\n    \"" content "${content}")
  # Written only if it differs, so that configuring again compiles nothing again.
  file(CONFIGURE OUTPUT ${output} @ONLY CONTENT
    "/* Made by tools/text.cmake. */\nextern const char @name@[];\n\nconst char @name@[] =\n    \"@content@\";\n")
  target_sources(${target} PRIVATE ${output})
endfunction()
