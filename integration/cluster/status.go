package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"kineshim/proto"
)

// askWithin bounds one question to a node; a frozen node answers nothing.
const askWithin = time.Second

// Control is a client of the data node's control socket. It belongs to the cluster.
func (c *Cluster) Control(node string) (proto.ControlClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.control[node]
	if conn == nil {
		var err error
		conn, err = grpc.NewClient("unix:"+c.SocketPath(node), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: askWithin,
				Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 100 * time.Millisecond}}))
		if err != nil {
			return nil, fmt.Errorf("control of %s: %w", node, err)
		}
		c.control[node] = conn
	}
	return proto.NewControlClient(conn), nil
}

// Status asks the data node how the cluster is.
func (c *Cluster) Status(ctx context.Context, via string) (*proto.StatusResponse, error) {
	control, err := c.Control(via)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	s, err := control.Status(ctx, &proto.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", via, err)
	}
	return s, nil
}

// answerWithin bounds StatusOf.
const answerWithin = 30 * time.Second

// StatusOf is Status of a node that is there: it is asked until it answers. On a busy machine one question may not be answered in time.
func (c *Cluster) StatusOf(ctx context.Context, via string) (*proto.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for {
		s, err := c.Status(ctx, via)
		if err == nil || ctx.Err() != nil {
			return s, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// Self is what the node that answered says of itself; nil if it does not say.
func Self(s *proto.StatusResponse) *proto.NodeState { return stateOf(s, s.GetNode()) }

func stateOf(s *proto.StatusResponse, node string) *proto.NodeState {
	for _, n := range s.GetNodes() {
		if n.GetName() == node {
			return n.GetState()
		}
	}
	return nil
}

// Primary is the data node whose own gate is open. Empty: none says so.
func (c *Cluster) Primary(ctx context.Context) string {
	for _, node := range DataNodes {
		if !c.Running(node) {
			continue
		}
		if s, err := c.Status(ctx, node); err == nil && Self(s).GetGateOpen() {
			return node
		}
	}
	return ""
}

// WaitPrimary waits until a data node serves, and says which.
func (c *Cluster) WaitPrimary(ctx context.Context) (string, error) {
	var primary string
	err := poll(ctx, "wait for a primary", func() (bool, string) {
		primary = c.Primary(ctx)
		return primary != "", "no gate is open"
	})
	return primary, err
}

// WaitServing waits until some data node serves and the other data nodes that run know it.
func (c *Cluster) WaitServing(ctx context.Context) error {
	_, err := c.WaitPrimary(ctx)
	return err
}

// WaitStatus waits until the node's status is as wanted. The function says what is amiss, or nothing.
func (c *Cluster) WaitStatus(ctx context.Context, via, what string, amiss func(*proto.StatusResponse) string) error {
	return poll(ctx, "wait until "+what, func() (bool, string) {
		s, err := c.Status(ctx, via)
		if err != nil {
			return false, err.Error()
		}
		if why := amiss(s); why != "" {
			return false, why
		}
		return true, ""
	})
}

// WaitArmed waits until the primary itself says that an automatic failover would succeed, and the standby agrees on who is primary.
func (c *Cluster) WaitArmed(ctx context.Context) error {
	return poll(ctx, "wait until armed", func() (bool, string) {
		primary := c.Primary(ctx)
		if primary == "" {
			return false, "no gate is open; " + c.describe(ctx)
		}
		s, err := c.Status(ctx, primary)
		if err != nil {
			return false, err.Error()
		}
		if !s.GetArmed() {
			return false, fmt.Sprintf("primary %s, mode %s: %s", primary, s.GetMode(), strings.Join(s.GetNotArmed(), "; "))
		}
		o, err := c.Status(ctx, Other(primary))
		if err != nil {
			return false, err.Error()
		}
		if o.GetPrimary() != primary || o.GetEpoch() != s.GetEpoch() {
			return false, fmt.Sprintf("%s knows primary %s in epoch %d, not %s in %d", o.GetNode(), o.GetPrimary(), o.GetEpoch(), primary, s.GetEpoch())
		}
		return true, ""
	})
}

// describe says why nobody serves, as far as the nodes tell.
func (c *Cluster) describe(ctx context.Context) string {
	var out []string
	for _, node := range DataNodes {
		s, err := c.Status(ctx, node)
		if err != nil {
			out = append(out, fmt.Sprintf("%s: %v", node, err))
			continue
		}
		st := Self(s)
		out = append(out, fmt.Sprintf("%s: epoch %d, primary %s, mode %s, PostgreSQL %s (%s), gate: %s, %s %s", node, s.GetEpoch(), s.GetPrimary(), s.GetMode(),
			st.GetRole(), st.GetRoleReason(), st.GetGateReason(), st.GetProgress().GetWhat(), st.GetProgress().GetStep()))
	}
	return strings.Join(out, " | ")
}

// Switchover makes the node the primary, as an operator does, and returns when it serves.
func (c *Cluster) Switchover(ctx context.Context, to string) error {
	control, err := c.Control(to)
	if err != nil {
		return err
	}
	resp, err := control.Promote(ctx, &proto.PromoteRequest{Node: to, Operator: "test"})
	if err != nil {
		return fmt.Errorf("switchover to %s: %w", to, err)
	}
	if !resp.GetDone() {
		return fmt.Errorf("switchover to %s: %w", to, errors.New(resp.GetReason()))
	}
	return nil
}
