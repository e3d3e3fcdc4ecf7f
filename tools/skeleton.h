/* skeleton.h: the files that `winnow new` writes, made from tools/skeleton/ by the build. "@NAME@"
 * stands for the algorithm's name. */
#ifndef WN_TOOLS_SKELETON_H
#define WN_TOOLS_SKELETON_H

extern const char wn_skeleton_source[];
extern const char wn_skeleton_cmake[];
extern const char wn_skeleton_readme[];

#endif
