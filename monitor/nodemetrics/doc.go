// Package nodemetrics has the Prometheus metrics of a data node. Most are read from a Sample when Prometheus asks; only how long things take is
// measured as they happen.
//
// table.go lists them all: docs/metrics.md is made of it (go test ./monitor/nodemetrics -update).
package nodemetrics
