package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"kineshim/integration/cluster"
	"kineshim/integration/ledger"
)

// The kinds of client, all of them at work in every round. Their names are those of the endpoints in the record.
const (
	// clientSurvivor asks the node that is left, as the k3s beside it does.
	clientSurvivor = "survivor"
	// clientStruck asks the node that is struck. It gets no answer while that process is dead or frozen.
	clientStruck = "struck"
	// clientBoth has a list of both, among which etcd's client balances.
	clientBoth = "both"
)

var clientNames = []string{clientSurvivor, clientStruck, clientBoth}

// workersOf is how many workers each kind of client has, beside one that renews a lease: most ask the node that is left.
var workersOf = map[string]int{clientSurvivor: 8, clientStruck: 4, clientBoth: 4}

// client is a client as Kubernetes' is, one for all workers of a kind.
type client struct {
	*clientv3.Client
	failed attempts
}

// attempts counts the tries that failed. etcd's client repeats by itself a read that is refused, so its caller sees fewer errors than there were.
type attempts struct{ reads, writes atomic.Int64 }

// intercept stands below the repetitions of etcd's client.
func (a *attempts) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	switch {
	case err == nil || errors.Is(ctx.Err(), context.Canceled):
	case strings.HasSuffix(method, "/Range"):
		a.reads.Add(1)
	default:
		a.writes.Add(1)
	}
	return err
}

// clients are a round's.
type clients map[string]*client

// dialClients makes a client of each kind.
func dialClients(c *cluster.Cluster, survivor, struck string) (clients, error) {
	urls := map[string][]string{
		clientSurvivor: {c.ClientURL(survivor)},
		clientStruck:   {c.ClientURL(struck)},
		clientBoth:     {c.ClientURL(survivor), c.ClientURL(struck)},
	}
	out := clients{}
	for _, name := range clientNames {
		cl := &client{}
		var err error
		if cl.Client, err = ledger.DialAll(urls[name], grpc.WithChainUnaryInterceptor(cl.failed.intercept)); err != nil {
			return nil, errors.Join(fmt.Errorf("client %s: %w", name, err), out.close())
		}
		out[name] = cl
	}
	return out, nil
}

func (c clients) close() error {
	var errs []error
	for _, cl := range c {
		errs = append(errs, cl.Close())
	}
	return errors.Join(errs...)
}

func (c clients) endpoint(name string) ledger.Endpoint {
	return ledger.Endpoint{Name: name, Store: ledger.Etcd{Client: c[name].Client}}
}

// failedSoFar are the tries of each kind that have failed up to now.
func (c clients) failedSoFar() map[string]failedAttempts {
	out := map[string]failedAttempts{}
	for name, cl := range c {
		out[name] = failedAttempts{int(cl.failed.reads.Load()), int(cl.failed.writes.Load())}
	}
	return out
}

type failedAttempts struct{ reads, writes int }
