package state

import (
	"bytes"
	"crypto/ecdh"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// KeySize is the length of every WireGuard key, in bytes.
const KeySize = 32

// redacted is all that a secret ever says of itself.
const redacted = "(redacted)"

// ErrKeyFormat says that a text is not a WireGuard key. It never quotes the text, which may be a
// private key with one character wrong.
var ErrKeyFormat = errors.New("not a WireGuard key: want 32 bytes in base64 (44 characters)")

// PublicKey names a peer. It prints as base64, as everywhere in WireGuard.
type PublicKey [KeySize]byte

// ParsePublicKey reads the base64 form.
func ParsePublicKey(s string) (PublicKey, error) {
	raw, err := parseKey(s)
	return PublicKey(raw), err
}

// IsZero tells whether the key is absent.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// Equal tells whether both are the same key.
func (k PublicKey) Equal(o PublicKey) bool { return k == o }

// Compare orders keys by their bytes.
func (k PublicKey) Compare(o PublicKey) int { return bytes.Compare(k[:], o[:]) }

// String is the base64 form.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText writes the base64 form.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the base64 form.
func (k *PublicKey) UnmarshalText(text []byte) error {
	key, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*k = key
	return nil
}

// secret holds a key inside a function. Reflection cannot look into one, so that even a formatter
// that may not call methods (fmt on an unexported field) or follows pointers (fmt with a wrong
// verb does) finds no key. It also makes whatever embeds it not comparable with ==: equality must
// take constant time. reflect.DeepEqual calls no two secrets equal; use Equal.
type secret struct{ reveal func() [KeySize]byte }

func newSecret(raw [KeySize]byte) secret {
	if raw == [KeySize]byte{} {
		return secret{}
	}
	return secret{reveal: func() [KeySize]byte { return raw }}
}

// IsZero tells whether there is no key.
func (s secret) IsZero() bool { return s.reveal == nil }

// Reveal hands out the key itself, for the kernel and the key file only.
func (s secret) Reveal() [KeySize]byte {
	if s.reveal == nil {
		return [KeySize]byte{}
	}
	return s.reveal()
}

// RevealText hands out the key in base64, for the key file only.
func (s secret) RevealText() string {
	raw := s.Reveal()
	return base64.StdEncoding.EncodeToString(raw[:])
}

func (s secret) equal(o secret) bool {
	a, b := s.Reveal(), o.Reveal()
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// String says only whether there is a key.
func (s secret) String() string {
	if s.IsZero() {
		return "(none)"
	}
	return redacted
}

// Format says only whether there is a key, whatever the verb.
func (s secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString says only whether there is a key.
func (s secret) GoString() string { return s.String() }

// MarshalText says only whether there is a key.
func (s secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON says only whether there is a key.
func (s secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// LogValue says only whether there is a key.
func (s secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// PrivateKey is a node's own key. It cannot print itself and does not compare with ==.
// The zero value is no key.
type PrivateKey struct{ secret }

// NewPrivateKey clamps the bytes as X25519 asks, as the kernel does with what it is given, so that
// a key read back from a device equals the one that was set.
func NewPrivateKey(raw [KeySize]byte) PrivateKey {
	if raw == [KeySize]byte{} {
		return PrivateKey{}
	}
	raw[0] &= 248
	raw[31] = raw[31]&127 | 64
	return PrivateKey{newSecret(raw)}
}

// GeneratePrivateKey makes a key of what it reads from random, which is crypto/rand.Reader
// everywhere but in tests.
func GeneratePrivateKey(random io.Reader) (PrivateKey, error) {
	var raw [KeySize]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return PrivateKey{}, fmt.Errorf("read random bytes: %w", err)
	}
	return NewPrivateKey(raw), nil
}

// ParsePrivateKey reads the base64 form.
func ParsePrivateKey(s string) (PrivateKey, error) {
	raw, err := parseKey(s)
	if err == nil && raw == [KeySize]byte{} {
		err = fmt.Errorf("%w: all zero", ErrKeyFormat)
	}
	return NewPrivateKey(raw), err
}

// Equal compares in constant time.
func (k PrivateKey) Equal(o PrivateKey) bool { return k.equal(o.secret) }

// Public is the key's public half; the zero key's is zero.
func (k PrivateKey) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	raw := k.Reveal()
	private, err := ecdh.X25519().NewPrivateKey(raw[:])
	if err != nil { // only a wrong length is an error, and the type rules it out
		panic(err)
	}
	return PublicKey(private.PublicKey().Bytes())
}

// PresharedKey is the optional symmetric key of a pair of peers. It cannot print itself.
// The zero value is none.
type PresharedKey struct{ secret }

// NewPresharedKey takes the bytes as they are; all zero is none, as in WireGuard.
func NewPresharedKey(raw [KeySize]byte) PresharedKey { return PresharedKey{newSecret(raw)} }

// Equal compares in constant time.
func (k PresharedKey) Equal(o PresharedKey) bool { return k.equal(o.secret) }

func parseKey(s string) (raw [KeySize]byte, err error) {
	// The exact length and Strict: two texts must not stand for one key, and the decoder skips
	// line ends.
	if len(s) != base64.StdEncoding.EncodedLen(KeySize) {
		return raw, ErrKeyFormat
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != KeySize {
		return raw, ErrKeyFormat
	}
	return [KeySize]byte(b), nil
}
