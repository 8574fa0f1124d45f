// Package joining is how a machine becomes a member of a cluster by a token, instead of by a file that is carried over.
//
// The founder writes down whom it waits for: one data node and one witness, each with a token of its own. A token is shown once, to the operator: it pins the
// authority of the cluster, names where the founder is to be asked, and has a secret, of which the founder keeps the hash. Whoever shows it first is bound to it
// by a key of its own, durably on both sides: the same machine may ask again after any interruption, another one may not. When both have come, the founder
// knows all three names and addresses, makes the three identities, and gives each guest its own.
//
// What is asked and answered goes over TLS 1.3 on the founder's Raft port, by a protocol of its own. The guest knows the founder by the pinned authority; the
// founder knows the guest by the secret. The guest's private key never leaves its machine.
package joining
