package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
)

// TokenLife is etcd's --auth-token-ttl. A client gets another token by itself when it is told that its own has ended. On a stream it cannot show another one: there
// the token has to be good when the stream begins.
const TokenLife = 300 * time.Second

// tokenHead is what stands in a token before the name: when it ends, in seconds, and the auth revision at which it was made.
const tokenHead = 16

// Hash is a password's, of bcrypt as in etcd. It takes some tens of milliseconds. Passwords of more than 72 bytes are an error.
func Hash(password string) ([]byte, error) {
	return bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
}

// Authenticate returns a token for a user whose password it is. It takes some tens of milliseconds; if users have been changed meanwhile, do it again:
// the token may be void.
func (s *State) Authenticate(name, password string, now time.Time) (string, error) {
	if !s.enabled {
		return "", rpctypes.ErrGRPCAuthNotEnabled
	}
	u, ok := s.users[name]
	switch {
	case !ok || !u.hasPassword():
		return "", rpctypes.ErrGRPCAuthFailed
	case bcrypt.CompareHashAndPassword(u.Password, []byte(password)) != nil:
		return "", rpctypes.ErrGRPCAuthFailed
	}
	head := binary.BigEndian.AppendUint64(nil, uint64(now.Add(TokenLife).Unix()))
	head = binary.BigEndian.AppendUint64(head, s.revision)
	signed := append(head, name...)
	return base64.RawURLEncoding.EncodeToString(append(s.sign(signed), signed...)), nil
}

func (s *State) sign(b []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write(b)
	return h.Sum(nil)
}

// Token tells who a token was made for. It is void when its time is over, when its user was deleted or got another password since, and when access
// control was disabled since. Any node with this State can tell, so tokens live through a change of the primary.
func (s *State) Token(token string, now time.Time) (Caller, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < sha256.Size+tokenHead || len(s.key) == 0 {
		return Caller{}, rpctypes.ErrGRPCInvalidAuthToken
	}
	mac, signed := b[:sha256.Size], b[sha256.Size:]
	if !hmac.Equal(mac, s.sign(signed)) {
		return Caller{}, rpctypes.ErrGRPCInvalidAuthToken
	}
	ends, revision, name := binary.BigEndian.Uint64(signed), binary.BigEndian.Uint64(signed[8:]), string(signed[tokenHead:])
	u, ok := s.users[name]
	if !ok || revision < u.since || now.Unix() >= int64(ends) {
		return Caller{}, rpctypes.ErrGRPCInvalidAuthToken
	}
	return Caller{Name: name, Known: true}, nil
}
