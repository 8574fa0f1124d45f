package main

import (
	"context"
	"errors"

	"kineshim/kineshim"
	"kineshim/kineshim/auth"
	"kineshim/kineshim/kinetable"
)

// errGuarded is why kine's engine does not start.
var errGuarded = errors.New("access control is enabled (etcdctl auth enable), and kine knows nothing of it: everybody could read and change everything. " +
	"Start with engine: native, disable it (etcdctl auth disable), and come back")

// kineEngine is kine's engine, where nobody needs permission.
func kineEngine(ctx context.Context, s kineshim.Session) (kineshim.Engine, error) {
	stored, err := kinetable.StoredAccess(ctx, s.DSN(s.SocketDir))
	if err != nil {
		return nil, err
	}
	if stored != nil {
		access, err := auth.Unmarshal(stored)
		if err != nil {
			return nil, err
		}
		if access.Enabled() {
			return nil, errGuarded
		}
	}
	return kineshim.KineEngine(ctx, s)
}
