// Package pki is who may speak with whom inside a cluster: a certificate authority of the cluster's own, certificates whose subject is the incarnation of a
// voter, and the TLS configurations that check both. It knows nothing of what is spoken.
//
// A certificate names a voter by a URI, kineshim://CLUSTER/ROLE/SERVER-ID, and nothing else of it counts: addresses may change, and a host name proves nothing
// here. Chains of one: the authority signs certificates, and nobody below it does. What was enrolled anew has another server ID, so the certificate of the
// voter before it is revoked by the cluster record; there are no revocation lists.
//
// The authority's key is on the two data nodes, each of which can thus renew any certificate while the other is away. A witness has none.
package pki
