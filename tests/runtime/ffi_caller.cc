// Calls an FFI handler as XLA would on a GPU: with a stream, which no CPU runtime provides.
#include <cstdint>
#include <string>
#include <vector>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  std::string message;
};

namespace {

// What XLA's opaque execution context is here; its name differs between versions of the header.
struct Context {
  void* stream;
};

XLA_FFI_Error* CreateError(XLA_FFI_Error_Create_Args* args) {
  return new XLA_FFI_Error{std::to_string(args->errc) + " " + args->message};
}
XLA_FFI_Error* GetStream(XLA_FFI_Stream_Get_Args* args) {
  args->stream = reinterpret_cast<Context*>(args->ctx)->stream;
  return nullptr;
}

XLA_FFI_Buffer Buffer(XLA_FFI_DataType dtype, std::vector<int64_t>* dims) {
  XLA_FFI_Buffer buffer{};
  buffer.struct_size = XLA_FFI_Buffer_STRUCT_SIZE;
  buffer.dtype = dtype;
  buffer.data = reinterpret_cast<void*>(0x10000);  // never followed: the launch is fake
  buffer.rank = static_cast<int64_t>(dims->size());
  buffer.dims = dims->data();
  return buffer;
}

}  // namespace

// jax_fa4_bwd_preprocess_v1 on bf16 (1, 4, 2, 64). Returns the error's text, or an empty one;
// the text lives until this thread's next call.
extern "C" const char* call_preprocess(XLA_FFI_Handler* handler, int stage, void* stream,
                                       const char* variants) {
  XLA_FFI_Api api{};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.XLA_FFI_Error_Create = CreateError;
  api.XLA_FFI_Stream_Get = GetStream;
  Context context{stream};

  std::vector<int64_t> elements = {1, 4, 2, 64}, rows = {1, 2, 4};
  XLA_FFI_Buffer out = Buffer(XLA_FFI_DataType_BF16, &elements);
  XLA_FFI_Buffer row = Buffer(XLA_FFI_DataType_F32, &rows);
  void* args[] = {&out, &out, &row};
  void* rets[] = {&row};
  XLA_FFI_ArgType arg_types[] = {XLA_FFI_ArgType_BUFFER, XLA_FFI_ArgType_BUFFER,
                                 XLA_FFI_ArgType_BUFFER};
  XLA_FFI_RetType ret_types[] = {XLA_FFI_RetType_BUFFER};
  const std::string names(variants);
  XLA_FFI_ByteSpan value = {names.data(), names.size()}, key = {"variants", 8};
  XLA_FFI_ByteSpan* keys[] = {&key};
  void* values[] = {&value};
  XLA_FFI_AttrType types[] = {XLA_FFI_AttrType_STRING};

  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.ctx = reinterpret_cast<decltype(frame.ctx)>(&context);
  frame.stage = static_cast<XLA_FFI_ExecutionStage>(stage);
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, 3, arg_types, args};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, 1, ret_types, rets};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, 1, types, keys, values};

  thread_local std::string message;
  XLA_FFI_Error* error = handler(&frame);
  message = error == nullptr ? "" : error->message;
  delete error;
  return message.c_str();
}
