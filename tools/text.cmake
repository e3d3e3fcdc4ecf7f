# Writes a C source with a file's text as `const char NAME[]`, so that the installed command needs no
# file beside it and the file stays what it is, to be read and edited.
function(winnow_text output name file)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} content)
  string(REPLACE "\\" "\\\\" content "${content}")
  string(REPLACE "\"" "\\\"" content "${content}")
  string(REPLACE "\n" "\\n\"\n    \"" content "${content}")
  set(text "/* Made by tools/text.cmake. */\nextern const char ${name}[];\n\nconst char ${name}[] =\n    \"${content}\";\n")
  # Rewritten only if it differs, so that configuring again compiles nothing again.
  set(before "")
  if(EXISTS ${output})
    file(READ ${output} before)
  endif()
  if(NOT before STREQUAL text)
    file(WRITE ${output} "${text}")
  endif()
endfunction()
