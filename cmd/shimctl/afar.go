package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"kineshim/pki"
	"kineshim/pki/rpc"
)

// chooseWay reads the credentials, if nodes are to be asked from afar.
func (a *app) chooseWay() error {
	if a.credentials == "" && len(a.sockets) == 0 {
		a.credentials = os.Getenv(credentialsEnv)
	}
	switch {
	case a.credentials == "" && len(a.nodes) > 0:
		return errors.New("--node needs --credentials: a node on another machine answers nobody without")
	case a.credentials == "":
		return nil
	case len(a.sockets) > 0:
		return errors.New("--socket is for a node on this machine, --credentials for those on others: one of them")
	}
	p, err := pki.LoadPass(a.credentials)
	if err != nil {
		return &exitError{exitFailed, err}
	}
	if a.pass, err = p.Credentials(); err != nil {
		return &exitError{exitFailed, fmt.Errorf("%s: %w", a.credentials, err)}
	}
	if end := a.pass.Validity().NotAfter; time.Now().After(end) {
		return exitWith(exitFailed, "%s: the certificate of %s ended on %s: kineshim operator makes a new one", a.credentials, p.ID.Server, end.UTC().Format(time.DateTime))
	}
	if len(a.nodes) == 0 {
		a.nodes = p.Nodes
	}
	return nil
}

// ways are where nodes are asked, in order: addresses from afar, else sockets.
func (a *app) ways() []string {
	if a.pass != nil {
		return a.nodes
	}
	return a.socketPaths()
}

// isNode takes the certificates of data nodes.
func isNode(id pki.ID) error {
	if id.Role != pki.Data {
		return fmt.Errorf("the certificate is that of %s, which is no data node", id.Server)
	}
	return nil
}

// dialAfar connects to a node on another machine.
func (a *app) dialAfar(ctx context.Context, address string) (*grpc.ClientConn, error) {
	config := a.pass.Client(isNode)
	dial := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", address) }
	// gRPC would wrap the reason in its own words and try again: look first.
	raw, err := dial(ctx)
	if err == nil {
		err = tls.Client(raw, config).HandshakeContext(ctx)
		_ = raw.Close()
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%s: nobody listens there: does kineshim run on that machine, with control_listen set?", address)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%s: no answer within %v: is the machine on, and does a firewall let this port through?", address, a.timeout)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return client(rpc.Credentials(config), dial)
}

// onlyHere refuses what no node does for somebody from afar.
func (a *app) onlyHere(why string) error {
	if a.pass == nil {
		return nil
	}
	return exitWith(exitUnsafe, "%s: it is not handed out from afar; run shimctl on the node itself, as root", why)
}
