// Calls an FFI handler as XLA would on a GPU: with a stream, which no CPU runtime provides.
#include <cstdint>
#include <cstring>
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

XLA_FFI_ByteSpan Span(const char* text) { return {text, std::strlen(text)}; }

}  // namespace

extern "C" {

struct CallerBuffer {
  int32_t dtype;  // XLA_FFI_DataType
  int32_t rank;
  int64_t dims[4];
  void* data;  // never followed: the launch is fake
};

struct CallerAttributes {
  const char* variants;
  float softmax_scale;
  int32_t band_lower;
  int32_t band_upper;
};

// The handler's traits (XLA_FFI_HANDLER_TRAITS_*), as XLA asks for them when it registers.
uint32_t handler_traits(XLA_FFI_Handler* handler) {
  XLA_FFI_Metadata metadata{};
  metadata.struct_size = XLA_FFI_Metadata_STRUCT_SIZE;
  XLA_FFI_Metadata_Extension extension{};
  extension.extension_base = {XLA_FFI_Metadata_Extension_STRUCT_SIZE, XLA_FFI_Extension_Metadata,
                              nullptr};
  extension.metadata = &metadata;
  XLA_FFI_Api api{};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.XLA_FFI_Error_Create = CreateError;
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.extension_start = &extension.extension_base;
  frame.api = &api;
  delete handler(&frame);
  return metadata.traits;
}

// Calls the handler of a stage with the first `arg_count` buffers as arguments, the others as
// results, and the first `attribute_count` of band_lower, band_upper, softmax_scale, variants
// counted from the last. Returns the error's number and text, or an empty text; it lives until
// this thread's next call.
const char* call_handler(XLA_FFI_Handler* handler, int stage, void* stream, CallerBuffer* buffers,
                         int arg_count, int ret_count, CallerAttributes* attributes,
                         int attribute_count) {
  XLA_FFI_Api api{};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.XLA_FFI_Error_Create = CreateError;
  api.XLA_FFI_Stream_Get = GetStream;
  Context context{stream};

  std::vector<XLA_FFI_Buffer> storage(arg_count + ret_count);
  std::vector<void*> pointers;
  for (size_t i = 0; i < storage.size(); ++i) {
    storage[i] = {XLA_FFI_Buffer_STRUCT_SIZE,
                  nullptr,
                  static_cast<XLA_FFI_DataType>(buffers[i].dtype),
                  buffers[i].data,
                  buffers[i].rank,
                  buffers[i].dims};
    pointers.push_back(&storage[i]);
  }
  std::vector<XLA_FFI_ArgType> arg_types(arg_count, XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> ret_types(ret_count, XLA_FFI_RetType_BUFFER);

  XLA_FFI_Scalar lower = {XLA_FFI_DataType_S32, &attributes->band_lower};
  XLA_FFI_Scalar upper = {XLA_FFI_DataType_S32, &attributes->band_upper};
  XLA_FFI_Scalar scale = {XLA_FFI_DataType_F32, &attributes->softmax_scale};
  XLA_FFI_ByteSpan variants = Span(attributes->variants);
  void* values[] = {&lower, &upper, &scale, &variants};
  XLA_FFI_AttrType types[] = {XLA_FFI_AttrType_SCALAR, XLA_FFI_AttrType_SCALAR,
                              XLA_FFI_AttrType_SCALAR, XLA_FFI_AttrType_STRING};
  XLA_FFI_ByteSpan names[] = {Span("band_lower"), Span("band_upper"), Span("softmax_scale"),
                              Span("variants")};
  XLA_FFI_ByteSpan* keys[] = {&names[0], &names[1], &names[2], &names[3]};
  const int skipped = 4 - attribute_count;

  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.ctx = reinterpret_cast<decltype(frame.ctx)>(&context);
  frame.stage = static_cast<XLA_FFI_ExecutionStage>(stage);
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, arg_count, arg_types.data(), pointers.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, ret_count, ret_types.data(),
                pointers.data() + arg_count};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr,        attribute_count,
                 types + skipped,           keys + skipped, values + skipped};

  thread_local std::string message;
  XLA_FFI_Error* error = handler(&frame);
  message = error == nullptr ? "" : error->message;
  delete error;
  return message.c_str();
}
}
