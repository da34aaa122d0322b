// Drives Microsoft's debugger engine (dbgeng.dll, the engine inside WinDbg and kd.exe) from a script.
//
//   driver.exe [OPTION...] CONNECTION     a kernel, e.g. com:ipport=4440,port=127.0.0.1
//   driver.exe [OPTION...] dump:FILE      a crash dump
//
//   -y PATH        symbol path; by default only this folder, since the engine's own is a server
//   -i PATH        image path
//   -w SECONDS     how long to wait for one event, the first stop included, before it breaks in; 60
//   -d SECONDS     how long everything may take; 300
//   --no-break     attaches without asking for an initial break; the script begins at the first stop all the same
//
// Standard input has the script. A line is a debugger command, run to its end; if it lets the target run, up to the
// next event. Lines that begin with % are for the driver itself, in their turn
//
//   %pause MS          does nothing for a while
//   %interrupt-in MS   breaks in that much later: write it before the command that lets the target run
//   %exit-in MS        ends the process that much later, without a word to the target, as a crash would
//   %limit SECONDS     as -w, from now on
//   %detach            ends the session; so does the end of the script
//
// or as soon as they are read, also while a command runs or the target does:
//
//   %interrupt         breaks in
//   %exit              ends the process without a word to the target
//
// Standard output has what the engine prints, cut by lines of the driver. These begin with the byte 1e and end with a
// newline:
//
//   attach HRESULT     the attach call's result
//   limit              no event within the limit: it breaks in
//   wait HRESULT       an event arrived
//   ready              the session has begun; what the script does follows
//   begin N            output of line N of the script follows; from 1, without those obeyed as soon as they are read
//   end N HRESULT STATUS   that was all of it; the target's status then: 1 runs, 6 stopped, 7 gone
//   interrupt HRESULT  a break-in was asked for
//   over REASON        the last line
//
// Before text of another kind than the one before there is 1d, the kind's mask in hex (DEBUG_OUTPUT_*: 1 normal,
// 2 error, 4 warning, 80 from the target, 200 symbols), and 1d.
//
// Exit status: 0 all done, 2 wrong usage, 3 no engine, 4 the attach was refused, 5 no event when one was needed,
// 6 the target is gone, 124 the deadline passed.
#define INITGUID
#include <windows.h>
#include <dbgeng.h>
#include <fcntl.h>
#include <io.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

// MinGW's header declares these interfaces without their ids.
const GUID kClient4 = {0xca83c3de, 0x5089, 0x4cf8, {0x93, 0xc8, 0xd8, 0x92, 0x38, 0x7f, 0x2a, 0x5e}};
const GUID kControl = {0x5182e668, 0x105e, 0x416e, {0xad, 0x92, 0x24, 0xef, 0x80, 0x04, 0x24, 0xba}};
const GUID kSymbols = {0x8c31e98c, 0x983a, 0x48a5, {0x90, 0x16, 0x6f, 0xe5, 0xd6, 0x67, 0xa9, 0x50}};
const GUID kOutput = {0x4bf58045, 0xd654, 0x4c40, {0xb0, 0xaf, 0x68, 0x30, 0x90, 0xf3, 0x56, 0xdc}};

enum ExitStatus { kDone = 0, kUsage = 2, kNoEngine = 3, kRefused = 4, kNoEvent = 5, kGone = 6, kDeadline = 124 };

IDebugClient4 *client;
IDebugControl *control;
CRITICAL_SECTION printing;

// One line of the driver's own.
void mark(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  EnterCriticalSection(&printing);
  putchar(0x1e);
  vprintf(format, arguments);
  putchar('\n');
  fflush(stdout);
  LeaveCriticalSection(&printing);
  va_end(arguments);
}

// At once: the engine's threads may hold any lock by now.
void end_process(ExitStatus status, const char *reason) {
  mark("over %s", reason);
  TerminateProcess(GetCurrentProcess(), status);
}

// What the engine prints.
struct Printer : IDebugOutputCallbacks {
  // The engine also asks for newer interfaces: only the plain one may be granted.
  STDMETHOD(QueryInterface)(REFIID id, PVOID *object) {
    *object = id == kOutput || id == IID_IUnknown ? this : nullptr;
    return *object ? S_OK : E_NOINTERFACE;
  }
  STDMETHOD_(ULONG, AddRef)() { return 1; }
  STDMETHOD_(ULONG, Release)() { return 1; }
  STDMETHOD(Output)(ULONG mask, PCSTR text) {
    EnterCriticalSection(&printing);
    if (mask != last_mask) printf("\x1d%lx\x1d", last_mask = mask);
    fputs(text, stdout);
    fflush(stdout);
    LeaveCriticalSection(&printing);
    return S_OK;
  }
  ULONG last_mask = 0;
};

Printer printer;

// After so many milliseconds, on a thread of its own.
void later(ULONG milliseconds, void (*action)()) {
  struct Timer {
    ULONG milliseconds;
    void (*action)();
  };
  auto run = [](LPVOID argument) -> DWORD {
    Timer timer = *static_cast<Timer *>(argument);
    delete static_cast<Timer *>(argument);
    Sleep(timer.milliseconds);
    timer.action();
    return 0;
  };
  CreateThread(nullptr, 0, run, new Timer{milliseconds, action}, 0, nullptr);
}

void interrupt() { mark("interrupt %08lx", (ULONG)control->SetInterrupt(DEBUG_INTERRUPT_ACTIVE)); }
void vanish() { end_process(kDone, "exit"); }
void deadline() { end_process(kDeadline, "deadline"); }

// The script's lines, read by a thread of its own so that some can be obeyed while the engine is busy.
namespace script {
struct Line {
  char text[4096];
  Line *next;
};
Line *first, **last = &first;
CRITICAL_SECTION lock;
HANDLE there;  // Counts lines, and the end.

DWORD WINAPI read(LPVOID) {
  static char text[sizeof(Line::text)];
  while (fgets(text, sizeof text, stdin)) {
    text[strcspn(text, "\r\n")] = 0;
    if (!strcmp(text, "%exit")) vanish();
    if (!strcmp(text, "%interrupt")) {
      interrupt();
      continue;
    }
    Line *line = new Line;
    strcpy(line->text, text);
    line->next = nullptr;
    EnterCriticalSection(&lock);
    *last = line;
    last = &line->next;
    LeaveCriticalSection(&lock);
    ReleaseSemaphore(there, 1, nullptr);
  }
  ReleaseSemaphore(there, 1, nullptr);
  return 0;
}

// The next line, or null at the end. The caller deletes it.
Line *next() {
  WaitForSingleObject(there, INFINITE);
  EnterCriticalSection(&lock);
  Line *line = first;
  if (line && !(first = line->next)) last = &first;
  LeaveCriticalSection(&lock);
  return line;
}
}  // namespace script

// Waiting for one event with a limit. The engine takes no limit for kernels, and can't be asked to return without an
// event (DEBUG_INTERRUPT_EXIT): a thread breaks in.
namespace event {
ULONG limit = 60;
HANDLE begin, over;

DWORD WINAPI watch(LPVOID) {
  for (;;) {
    WaitForSingleObject(begin, INFINITE);
    if (WaitForSingleObject(over, limit * 1000) != WAIT_TIMEOUT) continue;
    mark("limit");
    control->SetInterrupt(DEBUG_INTERRUPT_ACTIVE);
    if (WaitForSingleObject(over, 5000) == WAIT_TIMEOUT) end_process(kNoEvent, "no event");
  }
}

HRESULT wait() {
  SetEvent(begin);
  HRESULT result = control->WaitForEvent(0, INFINITE);
  SetEvent(over);
  mark("wait %08lx", (ULONG)result);
  // What a debugger shows at a stop.
  if (result == S_OK) control->OutputCurrentState(DEBUG_OUTCTL_ALL_CLIENTS, DEBUG_CURRENT_DEFAULT);
  return result;
}
}  // namespace event

ULONG status() {
  ULONG status = DEBUG_STATUS_NO_DEBUGGEE;
  control->GetExecutionStatus(&status);
  return status;
}

// One line of the script; false to end the session.
bool run(const char *line, ULONG number) {
  mark("begin %lu", number);
  const char *argument = strchr(line, ' ');
  ULONG value = argument ? strtoul(argument, nullptr, 10) : 0;
  HRESULT result = S_OK;
  auto is = [&](const char *name) { return !strncmp(line, name, strlen(name)); };
  bool on = true;
  if (line[0] != '%') result = control->Execute(DEBUG_OUTCTL_ALL_CLIENTS, line, DEBUG_EXECUTE_DEFAULT);
  else if (is("%pause ")) Sleep(value);
  else if (is("%interrupt-in ")) later(value, interrupt);
  else if (is("%exit-in ")) later(value, vanish);
  else if (is("%limit ")) event::limit = value;
  else if (is("%detach")) on = false;
  else result = E_INVALIDARG;
  // After .reboot there is no debuggee until the next kernel speaks; a debugger waits for it.
  bool reboots = is(".reboot") && result == S_OK;
  if (line[0] != '%' && status() != DEBUG_STATUS_BREAK && (reboots || status() != DEBUG_STATUS_NO_DEBUGGEE)) event::wait();
  mark("end %lu %08lx %lu", number, (ULONG)result, status());
  return on && status() != DEBUG_STATUS_NO_DEBUGGEE;
}

}  // namespace

int main(int count, char **arguments) {
  const char *target = nullptr, *symbol_path = ".", *image_path = ".";
  ULONG seconds = 300;
  bool initial_break = true, usage = count < 2;
  for (int i = 1; i < count; i++) {
    const char *option = arguments[i];
    const char *value = i + 1 < count ? arguments[i + 1] : nullptr;
    if (!strcmp(option, "--no-break")) initial_break = false;
    else if (option[0] != '-') target = option;
    else if (!value) usage = true;
    else if (i++, !strcmp(option, "-y")) symbol_path = value;
    else if (!strcmp(option, "-i")) image_path = value;
    else if (!strcmp(option, "-w")) event::limit = strtoul(value, nullptr, 10);
    else if (!strcmp(option, "-d")) seconds = strtoul(value, nullptr, 10);
    else usage = true;
  }
  if (usage || !target) {
    fputs("usage: driver [-y PATH] [-i PATH] [-w SECONDS] [-d SECONDS] [--no-break] CONNECTION|dump:FILE\n", stderr);
    return kUsage;
  }
  _setmode(_fileno(stdout), _O_BINARY);
  InitializeCriticalSection(&printing);
  InitializeCriticalSection(&script::lock);
  script::there = CreateSemaphoreA(nullptr, 0, MAXLONG, nullptr);
  event::begin = CreateEventA(nullptr, FALSE, FALSE, nullptr);
  event::over = CreateEventA(nullptr, FALSE, FALSE, nullptr);
  later(seconds * 1000, deadline);

  HMODULE engine = LoadLibraryA("dbgeng.dll");
  void *address = engine ? reinterpret_cast<void *>(GetProcAddress(engine, "DebugCreate")) : nullptr;
  auto create = reinterpret_cast<HRESULT(WINAPI *)(REFIID, PVOID *)>(address);
  IDebugSymbols *symbols = nullptr;
  if (!create || FAILED(create(kClient4, (PVOID *)&client)) ||
      FAILED(client->QueryInterface(kControl, (PVOID *)&control)) ||
      FAILED(client->QueryInterface(kSymbols, (PVOID *)&symbols)))
    end_process(kNoEngine, "no engine");
  client->SetOutputCallbacks(&printer);
  symbols->SetSymbolPath(symbol_path);
  symbols->SetImagePath(image_path);
  CreateThread(nullptr, 0, event::watch, nullptr, 0, nullptr);
  CreateThread(nullptr, 0, script::read, nullptr, 0, nullptr);

  HRESULT result;
  if (!strncmp(target, "dump:", 5)) result = client->OpenDumpFile(target + 5);
  else {
    if (initial_break) control->AddEngineOptions(DEBUG_ENGOPT_INITIAL_BREAK);
    result = client->AttachKernel(DEBUG_ATTACH_KERNEL_CONNECTION, target);
  }
  mark("attach %08lx", (ULONG)result);
  if (FAILED(result)) end_process(kRefused, "refused");
  if (event::wait() != S_OK) end_process(kNoEvent, "no event");

  mark("ready");
  ULONG number = 0;
  while (script::Line *line = script::next()) {
    bool on = run(line->text, ++number);
    delete line;
    if (!on) break;
  }
  if (status() == DEBUG_STATUS_NO_DEBUGGEE) end_process(kGone, "gone");
  client->EndSession(DEBUG_END_ACTIVE_DETACH);
  // Not by returning: the engine's threads are still there, and may wait for the target for ever.
  end_process(kDone, "done");
}
