package handover

import (
	"context"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql" // registers postgres://
	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"
)

// startPlain starts kine as its users have it, but that it compacts to where it is told, and only then.
func (p *place) startPlain() *running {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var own sync.WaitGroup
	_, backend, err := drivers.New(ctx, &own, &drivers.Config{
		Endpoint:       p.pg.DSN(p.database) + "&application_name=kine",
		CompactTimeout: 5 * time.Second, CompactBatchSize: 1000, PollBatchSize: 500,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxOpen: 5, MaxIdle: 5},
	})
	if err == nil {
		err = backend.Start(ctx)
	}
	if err != nil {
		cancel()
		p.t.Fatalf("start plain kine: %v", err)
	}
	s := grpc.NewServer()
	server.New(backend, "http", 5*time.Second, "3.6.11").Register(s)
	l := listen(p.t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // until Stop
	}()
	return p.connect(plainKine, l.Addr().String(), func() {
		s.Stop()
		<-served
		cancel()
		own.Wait()
	})
}
