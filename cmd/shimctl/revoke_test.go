package main

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/proto"
)

func TestRevoke(t *testing.T) {
	var asked []string
	c := &control{status: always(paired()), revoke: func(r *proto.RevokeRequest) error {
		asked = append(asked, r.Name)
		switch {
		case r.Operator == "":
			return status.Error(codes.InvalidArgument, "nobody asks")
		case r.Name == "bob":
			return status.Error(codes.Unavailable, "no majority")
		}
		return nil
	}}
	s := []string{serve(t, c)}
	invoke(t, s, "", "operator", "revoke", "alice").expect(t, exitFine, "credentials of alice are refused", "under another name")
	invoke(t, s, "", "operator", "revoke", "bob").expect(t, exitFailed, "stderr: no majority")
	invoke(t, s, "", "operator", "revoke").expect(t, exitUsage, "stderr: which operator?")
	if len(asked) != 2 || asked[0] != "alice" {
		t.Errorf("asked for %v", asked)
	}
}
