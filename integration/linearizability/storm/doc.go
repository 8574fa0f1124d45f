// Package storm makes a cluster on three hosts of network namespaces fail again and again, in ways and at moments drawn from a seed, up to two at a
// time, under the ledger's load and the requests and watches of package linearizability, on both data nodes and through a virtual address. After each
// burst of blows everything is healed, the cluster must become armed again by itself, and everything that clients were told is checked.
//
// A plan is text: a line for each burst, its blows separated by semicolons, each with the time of the burst at which it strikes, what it does, to whom, and after how
// long it is undone:
//
//	+0.40s kill-kineshim primary for 2.10s; +1.20s cut standby-witness for 4.00s
//
// The roles are looked up when the blow strikes, so the same plan may hit other nodes, and its outcome differs as time does.
package storm
