package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"kineshim/config"
	"kineshim/durable"
	"kineshim/joining"
	"kineshim/pki"
	pb "kineshim/proto"
	"kineshim/raftwitness"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// operatorsFor is how long an operator's certificate is good, unless it is said otherwise.
const (
	operatorsFor    = 90 * 24 * time.Hour
	maxOperatorsFor = 10 * 365 * 24 * time.Hour
)

// greetOperators bounds the handshake of a connection from afar. gRPC's two minutes are long for somebody who says nothing.
const greetOperators = 10 * time.Second

// What operators may do from afar, by gRPC method. What is in neither list is done on the node itself only: replacing a member hands out the cluster's keys, and a
// snapshot is all that the cluster holds.
var (
	looking = []string{pb.Control_Status_FullMethodName, pb.Control_History_FullMethodName, pb.Control_PreviewForce_FullMethodName, pb.Control_PreviewAlone_FullMethodName}
	acting  = []string{pb.Control_Promote_FullMethodName, pb.Control_SetPaused_FullMethodName, pb.Control_ServeAlone_FullMethodName}
)

// isOperator takes the certificates of operators.
func isOperator(id pki.ID) error {
	if id.Role != pki.Viewer && id.Role != pki.Operator {
		return fmt.Errorf("the certificate is that of %s, who is no operator: kineshim operator makes one", id.Server)
	}
	return nil
}

// isRevoked says whether the certificates of the named operator are void, by all that this node has on disk: after a restart without a majority it knows no record.
func (n *node) isRevoked(operator string) (bool, error) {
	rec, err := n.raft.LastRecord()
	return rec.IsRevoked(operator), err
}

// operatorOptions judge each call from afar.
func (n *node) operatorOptions(revoked func(operator string) (bool, error)) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ConnectionTimeout(greetOperators),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			id, err := mayCall(ctx, info.FullMethod, revoked)
			if err != nil {
				n.log.Warn("an operator was refused", "operator", id.Server, "role", string(id.Role), "method", info.FullMethod)
				return nil, err
			}
			if slices.Contains(acting, info.FullMethod) {
				n.log.Info("an operator acts from afar", "operator", id.Server, "method", info.FullMethod)
			}
			sign(request, id)
			return handler(ctx, request)
		}),
		grpc.StreamInterceptor(func(_ any, s grpc.ServerStream, info *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			id, err := mayCall(s.Context(), info.FullMethod, revoked)
			if err == nil {
				err = status.Error(codes.PermissionDenied, "not from afar")
			}
			n.log.Warn("an operator was refused", "operator", id.Server, "role", string(id.Role), "method", info.FullMethod)
			return err
		}),
	}
}

// mayCall says who calls, and refuses what that one may not.
func mayCall(ctx context.Context, method string, revoked func(operator string) (bool, error)) (pki.ID, error) {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return pki.ID{}, status.Error(codes.Unauthenticated, "no certificate was shown")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return pki.ID{}, status.Error(codes.Unauthenticated, "no certificate was shown")
	}
	leaf := info.State.PeerCertificates[0]
	id, err := pki.IDOf(leaf)
	void, unknown := revoked(id.Server)
	switch {
	case err != nil:
		return id, status.Error(codes.Unauthenticated, err.Error())
	case time.Now().After(leaf.NotAfter): // a connection may be older than that
		return id, status.Errorf(codes.Unauthenticated, "the certificate of %s ended on %s: kineshim operator makes a new one", id.Server, leaf.NotAfter.UTC().Format(time.DateTime))
	case unknown != nil:
		return id, status.Errorf(codes.Unavailable, "whether the credentials of %s are revoked cannot be read: %v", id.Server, unknown)
	case void:
		return id, status.Errorf(codes.Unauthenticated, "the credentials of %s are revoked: kineshim operator makes new ones, under another name", id.Server)
	case slices.Contains(looking, method), slices.Contains(acting, method) && id.Role == pki.Operator:
		return id, nil
	case slices.Contains(acting, method):
		return id, status.Errorf(codes.PermissionDenied, "%s may only look: this needs credentials made with --may act", id.Server)
	}
	return id, status.Error(codes.PermissionDenied, "this is not done from afar: run shimctl on the node itself, as root")
}

// sign puts who asks into a request, whoever that says it is.
func sign(request any, id pki.ID) {
	who := id.Server + " (from afar)"
	switch r := request.(type) {
	case *pb.PromoteRequest:
		r.Operator = who
	case *pb.SetPausedRequest:
		r.Operator = who
	case *pb.ServeAloneRequest:
		r.Operator = who
	}
}

// makeOperator writes the file by which an operator is known from afar.
func (o options) makeOperator(ctx context.Context, stdout io.Writer) error {
	role, ok := map[string]pki.Role{"look": pki.Viewer, "act": pki.Operator}[o.may]
	if !ok {
		return errors.New("--may look or --may act: what may the operator do?")
	}
	if err := config.CheckName(o.operator); err != nil {
		return err
	}
	cfg, err := config.LoadNode(o.config)
	if err != nil {
		return err
	}
	id, err := raftwitness.LoadIdentity(cfg.DataDir)
	if err != nil {
		return err
	}
	if err := cfg.Enrolled(joining.Addresses(id.Peers)); err != nil {
		return err
	}
	nodes, err := controlAddresses(cfg)
	if err != nil {
		return err
	}
	if err := o.notRevoked(ctx, cfg.ControlSocket); err != nil {
		return err
	}
	authority, err := pki.LoadAuthority(raftwitness.CertificatesDir(cfg.DataDir))
	if err != nil {
		return err
	}
	out := o.out
	if out == "" {
		out = o.operator + ".json"
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists: remove it, or name another file with --out", out)
	}
	pass, err := authority.Pass(pki.ID{Cluster: id.ClusterID, Role: role, Server: o.operator}, nodes, o.validFor, time.Now())
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(pass, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Write(out, append(text, '\n'), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s may %s until %s, with %s:\n\n  shimctl --credentials %s status\n\nWhoever has the file is %s: carry it over a trusted path. If it gets lost: shimctl operator revoke %s\n",
		o.operator, o.may, time.Now().Add(o.validFor).UTC().Format(time.DateOnly), out, out, o.operator, o.operator)
	return nil
}

// notRevoked asks the node behind a control socket whether the operator's name is void. If it does not run, it cannot say: the nodes will, when the credentials
// are used.
func (o options) notRevoked(ctx context.Context, socket string) error {
	conn, err := controlOf(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askNode)
	defer cancel()
	st, err := pb.NewControlClient(conn).Status(ctx, &pb.StatusRequest{})
	if err == nil && slices.Contains(st.GetRevoked(), o.operator) {
		return fmt.Errorf("%s is revoked, and stays so: give the new credentials another name", o.operator)
	}
	return nil
}

// controlAddresses are where both data nodes answer operators: at the same port, as both have the same control_listen.
func controlAddresses(cfg config.Node) ([]string, error) {
	if cfg.ControlListen == "" {
		return nil, errors.New("control_listen is not set, so no node answers operators from afar: set it on both data nodes, as control_listen: 0.0.0.0:2382, and restart them")
	}
	_, port, err := net.SplitHostPort(cfg.ControlListen)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range []string{cfg.Name, cfg.Other()} {
		out = append(out, net.JoinHostPort(joining.HostOf(cfg.Members[name].Peer), port))
	}
	return out, nil
}
