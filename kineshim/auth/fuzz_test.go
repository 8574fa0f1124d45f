package auth

import (
	"bytes"
	"encoding/base64"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// someState has a user with a role, and is enabled.
func someState(tb testing.TB) *State {
	tb.Helper()
	s := New()
	must := func(next *State, err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		s = next
	}
	must(s.AddUser(&pb.AuthUserAddRequest{Name: root, Password: "p"}, []byte("a hash")))
	must(s.AddRole(root))
	must(s.GrantRole(root, root))
	must(s.AddUser(&pb.AuthUserAddRequest{Name: "u", Options: &authpb.UserAddOptions{NoPassword: true}}, nil))
	must(s.AddRole("r"))
	must(s.GrantPermission("r", &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b")}))
	must(s.GrantRole("u", "r"))
	must(s.Enable([]byte("01234567890123456789012345678901")))
	return s
}

// FuzzUnmarshal: what is read is stored again with the same meaning, and can be used.
func FuzzUnmarshal(f *testing.F) {
	b, err := someState(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"enabled":true,"revision":1,"users":[{"user":"","since":18446744073709551615}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Unmarshal(b)
		if err != nil {
			return
		}
		once, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Unmarshal(once)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := again.Marshal()
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s, %v", once, twice, err)
		}
		for _, name := range s.userNames() {
			before, after := s.users[name], again.users[name]
			if len(before.read) != len(after.read) || len(before.write) != len(after.write) || before.since != after.since {
				t.Fatalf("%q may do something else", name)
			}
			_ = s.Permit(Caller{Name: name, Known: true}, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")}, nil)
		}
		_, _ = s.Token("none", time.Unix(0, 0))
	})
}

// FuzzToken: nobody makes himself a token that counts, without the key.
func FuzzToken(f *testing.F) {
	s := someState(f)
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, 32+tokenHead)))
	made := append(append(make([]byte, 32), bytes.Repeat([]byte{0x7f}, tokenHead)...), root...) // all right but for the signature
	f.Add(base64.RawURLEncoding.EncodeToString(made))
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := s.Token(token, time.Unix(0, 0)); err == nil {
			t.Fatalf("it is that of %+v", c)
		}
	})
}
