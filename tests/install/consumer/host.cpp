// host.cpp: the public header in C++, against the installed library.
#include "winnow/winnow.h"

#include <cstdio>
#include <cstring>

int main()
{
    const int64_t shape[] = {2, 3};
    const wn_tensor tensor = wn_tensor_make(nullptr, WN_BF16, 2, shape);
    if (std::strcmp(wn_status_name(WN_ENOPAGES), "WN_ENOPAGES") != 0 || tensor.stride[0] != 3 ||
        wn_cpu_ops()->struct_size != WN_SIZEOF(wn_ops))
        return 1;
    std::puts("C++ host: fine");
    return 0;
}
