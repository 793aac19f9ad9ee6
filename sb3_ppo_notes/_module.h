/* An extension module that does nothing, for those who walk over all modules of a package: the code beside it is called
 * through ctypes. To be included last, with MODULE the module's name. */
#if defined(__has_include)
#if __has_include(<Python.h>)
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED /* a free-threaded Python before 3.15 has no stable ABI */
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#define NAMED_(prefix, name) prefix##name
#define NAMED(prefix, name) NAMED_(prefix, name)
#define QUOTED_(name) #name
#define QUOTED(name) QUOTED_(name)
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, QUOTED(MODULE), "Called through ctypes.", -1,
                                    NULL, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC NAMED(PyInit_, MODULE)(void) { return PyModule_Create(&module); }
#endif
#endif
