package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"kineshim/config"
	"kineshim/deathwatch"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// deathwatchVerb makes this program the deathwatch of the kineshim that starts it. It is not for people.
const deathwatchVerb = "deathwatch"

// orders is what the deathwatch of a node must know. There are no secrets in it.
type orders struct {
	// DataDir is where the node's certificates are.
	DataDir string
	// Identity is the node's, with the others' Raft addresses as configured.
	Identity raftwitness.Identity
	Log      config.Log
}

// newOrders makes the orders of the node that is the identity.
func newOrders(cfg config.Node, id raftwitness.Identity) orders {
	id.Peers = slices.Clone(id.Peers)
	for i, p := range id.Peers {
		id.Peers[i].Raft = cfg.Members[p.Name].Raft
	}
	return orders{cfg.DataDir, id, cfg.Log}
}

// newDeathwatch makes the watch over this process; see package deathwatch.
func newDeathwatch(cfg config.Node, id raftwitness.Identity, log *slog.Logger) *deathwatch.Watch {
	return deathwatch.New(deathwatch.Config{Args: []string{deathwatchVerb}, Orders: newOrders(cfg, id), Log: log})
}

// sitDeathwatch is the program's whole life if it was started as a deathwatch; else it returns at once.
func sitDeathwatch(args []string) {
	if len(args) != 1 || args[0] != deathwatchVerb {
		return
	}
	if err := deathwatch.Sit(departureMessage); err != nil {
		fmt.Fprintf(os.Stderr, "kineshim deathwatch: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// departureMessage is for the witness first: it voids its promise, without which the other data node cannot win.
func departureMessage(b json.RawMessage) (deathwatch.Message, error) {
	var o orders
	if err := json.Unmarshal(b, &o); err != nil {
		return deathwatch.Message{}, fmt.Errorf("read the orders: %w", err)
	}
	// The certificates are read now, in case they cannot be read when they are needed.
	credentials, err := o.Identity.LoadCredentials(o.DataDir)
	if err != nil {
		return deathwatch.Message{}, err
	}
	m := deathwatch.Message{
		Log: o.Log.Logger(os.Stderr).With("deathwatch", o.Identity.Name),
		Tell: func(ctx context.Context, whom string, term uint64) error {
			to, ok := o.Identity.PeerByName(whom)
			if !ok {
				return fmt.Errorf("no voter %q", whom)
			}
			use := credentials
			if renewed, err := o.Identity.LoadCredentials(o.DataDir); err == nil {
				use = renewed
			}
			return raftwitness.Depart(ctx, use, o.Identity, to, term)
		},
	}
	for _, p := range o.Identity.Peers {
		switch {
		case p.Role == record.Witness:
			m.First = p.Name
		case p.Name != o.Identity.Name:
			m.Second = p.Name
		}
	}
	return m, nil
}
