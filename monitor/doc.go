// Package monitor answers load balancers and Prometheus over plain HTTP, read only: it says how a data node or a witness is, from what is in
// memory at that moment. It waits for nothing and changes nothing.
//
// It links the standard library only, as the witness is to stay small, and writes the witness's metrics itself. Those of a data node are in
// nodemetrics.
package monitor
