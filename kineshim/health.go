package kineshim

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// healthEvery is how often a health watch looks again by itself: a gate may close without the route having changed.
const healthEvery = time.Second

// health is gRPC's health service: SERVING while this node answers or forwards. It knows the empty service only, which is the
// whole server.
type health struct {
	healthpb.UnimplementedHealthServer
	endpoint *Endpoint
}

// Check answers at once.
func (h *health) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if r.GetService() != "" {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	state, _ := h.state()
	return &healthpb.HealthCheckResponse{Status: state}, nil
}

// List answers for the whole server.
func (h *health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	state, _ := h.state()
	return &healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{"": {Status: state}}}, nil
}

// Watch sends the state now and each time that it changes, until the client or the endpoint goes.
func (h *health) Watch(r *healthpb.HealthCheckRequest, s grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if r.GetService() != "" {
		return s.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVICE_UNKNOWN})
	}
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		state, changed := h.state()
		if state != last {
			if err := s.Send(&healthpb.HealthCheckResponse{Status: state}); err != nil {
				return err
			}
			last = state
		}
		select {
		case <-changed:
			// A route that has ended and has no successor yet would otherwise be asked without pause.
			select {
			case <-time.After(10 * time.Millisecond):
			case <-s.Context().Done():
			}
		case <-tick.C:
		case <-s.Context().Done():
			return contextError(s.Context().Err())
		case <-h.endpoint.closing:
			return Unavailable(errSessionEnded.Error())
		}
	}
}

// state is the health now, and a channel that is closed when the route on which it rests ends.
func (h *health) state() (healthpb.HealthCheckResponse_ServingStatus, <-chan struct{}) {
	e := h.endpoint
	route := e.opt.Router.Route()
	serving := false
	switch {
	case route.Local:
		_, _, err := e.enter()
		serving = err == nil
	case route.Target != "":
		serving = true
	}
	if serving {
		return healthpb.HealthCheckResponse_SERVING, route.Done
	}
	return healthpb.HealthCheckResponse_NOT_SERVING, route.Done
}
