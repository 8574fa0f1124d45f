// Command kv reads and writes keys as Kubernetes does, with transactions that compare revisions, for trying out an endpoint.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kineshim/integration/ledger"
)

const usage = `usage: kv [--endpoint URL] [--timeout 10s] COMMAND
  put KEY VALUE   create or replace
  get KEY
  list PREFIX
  delete KEY
  watch PREFIX    from now on; Ctrl-C ends it
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "kv:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("kv", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	endpoint := flags.String("endpoint", "http://127.0.0.1:2379", "")
	timeout := flags.Duration("timeout", 10*time.Second, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	args = flags.Args()
	want := map[string]int{"put": 3, "get": 2, "list": 2, "delete": 2, "watch": 2}
	if len(args) == 0 || want[args[0]] != len(args) {
		flags.Usage()
		return errors.New("no command that is known, or not its arguments")
	}
	c, err := ledger.Dial(*endpoint)
	if err != nil {
		return err
	}
	defer c.Close()
	if args[0] == "watch" {
		return watch(ctx, c, args[1], out)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	s := session{c, out}
	switch args[0] {
	case "put":
		return s.put(ctx, args[1], args[2])
	case "get":
		return s.get(ctx, args[1])
	case "list":
		return s.list(ctx, args[1])
	default:
		return s.delete(ctx, args[1])
	}
}

type session struct {
	c   *clientv3.Client
	out io.Writer
}

// put compares the revision that it replaces, and tries again if somebody else was quicker.
func (s session) put(ctx context.Context, key, value string) error {
	for {
		revision, err := s.revision(ctx, key)
		if err != nil {
			return err
		}
		resp, err := s.c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return fmt.Errorf("put: %w (it may have been done: get shows)", err)
		}
		if resp.Succeeded {
			fmt.Fprintf(s.out, "revision %d\n", resp.Header.Revision)
			return nil
		}
	}
}

func (s session) revision(ctx context.Context, key string) (int64, error) {
	resp, err := s.c.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("get: %w", err)
	}
	if len(resp.Kvs) == 0 {
		return 0, nil
	}
	return resp.Kvs[0].ModRevision, nil
}

func (s session) get(ctx context.Context, key string) error {
	resp, err := s.c.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if len(resp.Kvs) == 0 {
		return fmt.Errorf("no key %q (at revision %d)", key, resp.Header.Revision)
	}
	fmt.Fprintf(s.out, "%s\n", resp.Kvs[0].Value)
	return nil
}

func (s session) list(ctx context.Context, prefix string) error {
	a, err := ledger.Etcd{Client: s.c}.List(ctx, prefix, 500)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	for _, kv := range a.KVs {
		fmt.Fprintf(s.out, "%d\t%s\t%s\n", kv.Revision, kv.Key, kv.Value)
	}
	return nil
}

func (s session) delete(ctx context.Context, key string) error {
	revision, err := s.revision(ctx, key)
	if err != nil {
		return err
	}
	if revision == 0 {
		return fmt.Errorf("no key %q", key)
	}
	resp, err := s.c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		return fmt.Errorf("delete: %w (it may have been done: get shows)", err)
	case !resp.Succeeded:
		return errors.New("delete: somebody else has changed the key meanwhile")
	}
	fmt.Fprintf(s.out, "revision %d\n", resp.Header.Revision)
	return nil
}

func watch(ctx context.Context, c *clientv3.Client, prefix string, out io.Writer) error {
	now, err := c.Get(ctx, prefix) // for the revision: kine replays everything to a watch that names none
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	events := c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1))
	for resp := range events {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		for _, ev := range resp.Events {
			fmt.Fprintf(out, "%s\t%d\t%s\t%s\n", ev.Type, ev.Kv.ModRevision, ev.Kv.Key, ev.Kv.Value)
		}
	}
	return nil
}
