// The Python module snsoftmax._C: build information through pybind11, and the operator's entry
// point as a plain C function, since parsing arguments counts at the search's sizes.
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/version.h>

#include "../sn_softmax/sn_softmax.h"
#include "common/capability.h"

namespace py = pybind11;

namespace snsoftmax {
namespace {

double number_arg(const char* name, PyObject* object, const char* allowed) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    TORCH_CHECK_TYPE(false, "sn_softmax: ", name, " must be ", allowed, ", got ",
                     Py_TYPE(object)->tp_name, ".");
  }
  return value;
}

TemperatureArg temperature_arg(const char* name, PyObject* object) {
  if (THPVariable_Check(object)) return {1.0, THPVariable_Unpack(object)};
  return {number_arg(name, object, "a number or a tensor"), std::nullopt};
}

// (logits, temperature, scale, smooth_temperature, dim, return_entropy)
PyObject* sn_softmax_call(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 6, "_C.sn_softmax takes 6 arguments, got ", count, ".");
  TORCH_CHECK_TYPE(THPVariable_Check(args[0]), "sn_softmax: logits must be a tensor, got ",
                   Py_TYPE(args[0])->tp_name, ".");
  SNSoftmaxParams params;
  params.temperature = temperature_arg("temperature", args[1]);
  if (args[2] != Py_None) params.scale = number_arg("scale", args[2], "a number or None");
  if (args[3] != Py_None) params.smooth = temperature_arg("smooth_temperature", args[3]);
  params.dim = PyLong_AsLongLong(args[4]);
  if (params.dim == -1 && PyErr_Occurred()) return nullptr;
  TORCH_CHECK_TYPE(PyBool_Check(args[5]), "sn_softmax: return_entropy must be True or False, got ",
                   Py_TYPE(args[5])->tp_name, ".");
  const bool with_entropy = args[5] == Py_True;
  Tensor probs, entropy;
  {
    const py::gil_scoped_release no_gil;
    std::tie(probs, entropy) = sn_softmax(THPVariable_Unpack(args[0]), params, with_entropy);
  }
  if (!with_entropy) return THPVariable_Wrap(probs);
  return py::make_tuple(py::reinterpret_steal<py::object>(THPVariable_Wrap(probs)),
                        py::reinterpret_steal<py::object>(THPVariable_Wrap(entropy)))
      .release()
      .ptr();
  END_HANDLE_TH_ERRORS
}

PyMethodDef sn_softmax_method = {
    "sn_softmax", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(sn_softmax_call)),
    METH_FASTCALL, nullptr};

py::dict build_info() {
  py::dict info;
  info["version"] = SNSOFTMAX_VERSION;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = __VERSION__;
#ifdef SNSOFTMAX_WITH_CUDA
  info["cuda"] = SNSOFTMAX_CUDA_VERSION;
  info["cuda_architectures"] = py::str(SNSOFTMAX_CUDA_ARCHITECTURES).attr("split")(";");
#else
  info["cuda"] = py::none();
  info["cuda_architectures"] = py::list();
#endif
  info["cpu_capability"] = capability_name(cpu_capability());
  return info;
}

}  // namespace
}  // namespace snsoftmax

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &snsoftmax::build_info);
  m.attr("sn_softmax") = py::reinterpret_steal<py::object>(
      PyCFunction_NewEx(&snsoftmax::sn_softmax_method, nullptr, nullptr));
}
