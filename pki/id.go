package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Role is what the holder of a certificate may be.
type Role string

// The roles. Nodes are told from others by them before anything is read.
const (
	Data    Role = "data"
	Witness Role = "witness"
)

// ID is who a certificate was made for.
type ID struct {
	// Cluster is the cluster's ID.
	Cluster string
	Role    Role
	// Server is the voter's Raft server ID: its name and incarnation. Of an operator it is the name.
	Server string
}

const scheme = "kineshim"

// String is the URI in the certificate.
func (id ID) String() string { return id.uri().String() }

func (id ID) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: id.Cluster, Path: "/" + string(id.Role) + "/" + id.Server}
}

func (id ID) uris() []*url.URL { return []*url.URL{id.uri()} }

// ErrNoID reports a certificate that names nobody.
var ErrNoID = errors.New("the certificate names no member of a kineshim cluster")

// IDOf reads the ID in a certificate. Whether the certificate is to be believed, it does not say.
func IDOf(c *x509.Certificate) (ID, error) {
	if len(c.URIs) != 1 || c.URIs[0].Scheme != scheme {
		return ID{}, ErrNoID
	}
	role, server, ok := strings.Cut(strings.TrimPrefix(c.URIs[0].Path, "/"), "/")
	id := ID{Cluster: c.URIs[0].Host, Role: Role(role), Server: server}
	if !ok || server == "" || id.Cluster == "" || id.String() != c.URIs[0].String() {
		return ID{}, fmt.Errorf("%w: %s", ErrNoID, c.URIs[0])
	}
	return id, nil
}
