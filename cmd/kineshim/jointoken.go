package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"kineshim/joining"
	pb "kineshim/proto"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// joinCommand joins by a file or, without one, by the token that is typed or piped in.
func (o options) joinCommand(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	if o.enrolment != "" {
		return o.joinByFile(ctx, stdout)
	}
	if f, ok := stdin.(*os.File); ok && isTerminal(f) {
		fmt.Fprint(stdout, "Token: ")
	}
	t, err := joining.ReadToken(stdin)
	if err != nil {
		return err
	}
	if t.Role != record.Data {
		return errors.New("this token is for the witness. On its machine: echo TOKEN | raftwitness join")
	}
	return o.joinByToken(ctx, t, stdout)
}

// joinByFile joins with what the founder, or shimctl node replace, has written for this node.
func (o options) joinByFile(ctx context.Context, stdout io.Writer) error {
	e, err := raftwitness.ReadEnrolment(o.enrolment)
	if err != nil {
		return err
	}
	if _, err := os.Stat(o.config); errors.Is(err, fs.ErrNotExist) && o.name == "" {
		o.name = e.Identity.Name
	}
	s, err := o.newSetup("kineshim join", e.Settings)
	if err != nil {
		return err
	}
	if err := s.serviceFits(ctx); err != nil {
		return err
	}
	if err := join(s.cfg, o.enrolment, e, stdout); err != nil {
		return err
	}
	if err := (joining.Visit{Dir: s.cfg.DataDir}).Forget(); err != nil { // one by a token that came to nothing
		return err
	}
	if err := s.Save(s.cfg.DataDir); err != nil {
		return err
	}
	return s.Own(s.cfg.DataDir)
}

func isTerminal(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}

// joinByToken makes this machine a data node of the token's cluster, and waits until failover is armed. It may be run again after any interruption.
func (o options) joinByToken(ctx context.Context, t joining.Token, stdout io.Writer) error {
	s, err := o.newSetup("kineshim join", "")
	if err != nil {
		return err
	}
	if err := s.serviceFits(ctx); err != nil {
		return err
	}
	id, err := raftwitness.LoadIdentity(s.cfg.DataDir)
	switch {
	case errors.Is(err, raftwitness.ErrNotEnrolled):
		if err = refuseMember(s.cfg.DataDir); err == nil { // it may found one
			id, s, err = o.visit(ctx, t, s, stdout)
		}
	case err == nil && id.ClusterID != t.Cluster:
		err = refuseMember(s.cfg.DataDir)
	case err == nil:
		fmt.Fprintf(stdout, "This machine is %s of cluster %s already.\n", id.ServerID, id.ClusterID)
		if s.Text != nil && !o.dryRun {
			return o.restoreConfig(id, stdout)
		}
	}
	if err != nil || o.dryRun {
		return err
	}
	if err := s.Own(s.cfg.DataDir); err != nil {
		return err
	}
	started, err := s.start(ctx, stdout)
	if err != nil {
		return fmt.Errorf("%w. When the cause is gone, run this command again", err)
	}
	if !started {
		return nil
	}
	return awaitArmed(ctx, s.cfg.ControlSocket, stdout)
}

// restoreConfig writes the configuration of a member that has lost it, as when its system was installed anew beside its data. The node is not started: it could
// become the primary without what both share.
func (o options) restoreConfig(id raftwitness.Identity, stdout io.Writer) error {
	o.name = id.Name
	s, err := o.newSetup("kineshim join", "")
	if err == nil {
		err = s.Save(s.cfg.DataDir)
	}
	if err == nil {
		err = s.Own(s.cfg.DataDir)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s was missing, and is written anew. What both data nodes share, such as vips, is not in it: copy that from the other one's, then run this command again.\n", s.Path)
	return nil
}

// visit asks the founder, and writes all that it gives.
func (o options) visit(ctx context.Context, t joining.Token, s setup, stdout io.Writer) (id raftwitness.Identity, _ setup, err error) {
	major, err := s.major(ctx)
	if err != nil {
		return id, s, err
	}
	host, err := os.Hostname()
	if err != nil {
		return id, s, err
	}
	v := joining.Visit{
		Token: t, Dir: s.cfg.DataDir, Request: joining.Request{Name: s.cfg.Name, Host: host, PostgresMajor: major},
		Settle: func(q *joining.Request, local net.IP) error { return o.settle(s, q, local) },
		Say:    func(format string, args ...any) { fmt.Fprintf(stdout, format+"\n", args...) },
	}
	if o.dryRun {
		return id, s, wouldJoin(ctx, v, s, stdout)
	}
	e, a, err := v.Join(ctx)
	if err != nil {
		return id, s, err
	}
	if s.Text != nil { // now the settings are known
		if s, err = o.newSetup("kineshim join", a.Settings); err != nil {
			return id, s, err
		}
	}
	if err := s.cfg.Enrolled(joining.Addresses(e.Identity.Peers)); err != nil {
		return id, s, err
	}
	if err := matches(s.cfg, e.Identity); err != nil {
		return id, s, err
	}
	if err := s.Save(s.cfg.DataDir); err != nil {
		return id, s, err
	}
	if err := saveEnrolment(s.cfg.DataDir, e); err != nil {
		return id, s, err
	}
	fmt.Fprintf(stdout, "joined cluster %s as %s\n", e.Identity.ClusterID, e.Identity.ServerID)
	return e.Identity, s, v.Forget()
}

// settle says to the founder where this machine is reached.
func (o options) settle(s setup, q *joining.Request, local net.IP) error {
	host := o.advertise
	if host == "" {
		host = local.String()
	}
	p, err := s.member(host)
	if err != nil {
		return err
	}
	q.Raft, q.Peer, q.Postgres = p.Raft, p.Peer, p.Postgres
	return joining.CanListen(append(s.ownListeners(), p.Raft, p.Peer, p.Postgres)...)
}

// wouldJoin asks the founder without changing anything.
func wouldJoin(ctx context.Context, v joining.Visit, s setup, stdout io.Writer) error {
	a, q, err := v.Check(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Nothing is changed. %s would take this machine into cluster %s. kineshim join would:\n", a.Founder, v.Token.Cluster)
	s.describe(stdout)
	if s.Text != nil {
		fmt.Fprintf(stdout, "      (and the settings that both data nodes share, as %s has them)\n", a.Founder)
	}
	fmt.Fprintf(stdout, "  join as %s, Raft %s, peer %s, PostgreSQL %d at %s\n", q.Name, q.Raft, q.Peer, q.PostgresMajor, q.Postgres)
	fmt.Fprintf(stdout, "  keep its identity, its certificates and its data in %s\n  clone %s's database, and wait until automatic failover is armed\n", s.cfg.DataDir, a.Founder)
	return nil
}

const (
	// armedLook is how often a node that has joined is asked how far it is.
	armedLook = time.Second
	// askNode bounds one such question.
	askNode = 3 * time.Second
)

// controlOf is a connection to the node behind a control socket.
func controlOf(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
}

// awaitArmed tells how far the node is until failover is armed. The node goes on by itself if this is interrupted.
func awaitArmed(ctx context.Context, socket string, stdout io.Writer) error {
	conn, err := controlOf(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	control, said := pb.NewControlClient(conn), ""
	for {
		line, armed := howFar(ctx, control)
		if line != said {
			fmt.Fprintln(stdout, line)
			said = line
		}
		if armed {
			return nil
		}
		select {
		case <-ctx.Done():
			fmt.Fprintln(stdout, "The node goes on by itself: shimctl status")
			return ctx.Err()
		case <-time.After(armedLook):
		}
	}
}

// howFar is one line of how the cluster is.
func howFar(ctx context.Context, control pb.ControlClient) (line string, armed bool) {
	ctx, cancel := context.WithTimeout(ctx, askNode)
	defer cancel()
	st, err := control.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return "waiting until the node answers", false
	}
	if st.GetArmed() {
		return "Automatic failover is armed.", true
	}
	for _, n := range st.GetNodes() {
		if p := n.GetState().GetProgress(); n.GetName() == st.GetNode() && p.GetWhat() != "" {
			return inProgress(p), false
		}
	}
	return "not armed yet: " + strings.Join(st.GetNotArmed(), "; "), false
}

// inProgress is how far a clone, or what else takes long, has come.
func inProgress(p *pb.Progress) string {
	line := p.GetWhat()
	if total := p.GetTotalBytes(); total > 0 {
		line += fmt.Sprintf(" %d %%, %d of %d MiB", 100*p.GetDoneBytes()/total, p.GetDoneBytes()>>20, total>>20)
	}
	if p.GetStep() != "" {
		line += ": " + p.GetStep()
	}
	return line
}
