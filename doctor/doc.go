// Package doctor looks a data node's machine over: the checks of `shimctl doctor`. It finds out and judges, and changes nothing.
//
// Each family of checks has a file: a small interface of what it asks of the machine, where that is more than a file can be, and functions that
// make findings of the facts. Local has the probes of the machine that the process runs on; tests have others. Checks that wait run side by side,
// and each has a bound.
//
// A finding is OK; Warn, which is worth a change though the node works; or Fail, with which it does not work, or will not when it matters.
package doctor
