package state

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

func testKey(seed byte) [KeySize]byte {
	var raw [KeySize]byte
	for i := range raw {
		raw[i] = seed + byte(i)*7
	}
	return raw
}

// traces are the forms in which a key could show up in a text.
func traces(raw [KeySize]byte) []string {
	list := []string{
		base64.StdEncoding.EncodeToString(raw[:])[:16],
		base64.URLEncoding.EncodeToString(raw[:])[:16],
		base64.StdEncoding.EncodeToString(raw[8:])[:16],
		hex.EncodeToString(raw[8:16]),
		strings.ToUpper(hex.EncodeToString(raw[8:16])),
		strings.Trim(fmt.Sprintf("%v", raw[8:14]), "[]"),
		strings.Trim(fmt.Sprintf("% x", raw[8:14]), "[]"),
		strings.Trim(fmt.Sprintf("%#v", raw[8:14])[len("[]byte{"):], "}"),
		strings.Trim(fmt.Sprintf("%o", raw[8:14]), "[]"),
		strings.Trim(fmt.Sprintf("%b", raw[8:14]), "[]"),
		strings.Trim(fmt.Sprintf("%q", raw[8:14]), `"`),
		string(raw[8:16]),
	}
	if packed, err := json.Marshal(raw[8:14]); err == nil {
		list = append(list, strings.Trim(string(packed), `"`))
	}
	list = append(list, strings.ReplaceAll(list[5], " ", ","))
	return list
}

// hidden has a secret where fmt may not call its methods.
type hidden struct{ inner Device }

func TestNoLoggableTypePrintsASecret(t *testing.T) {
	privateRaw, presharedRaw := testKey(11), testKey(101)
	private, preshared := NewPrivateKey(privateRaw), NewPresharedKey(presharedRaw)
	peer := Peer{PublicKey: private.Public(), PresharedKey: preshared}
	device := Device{Name: "weft0", PrivateKey: private, Peers: []Peer{peer}}
	values := []any{
		private, &private, preshared, &preshared, peer, &peer, device, &device, hidden{device}, &hidden{device},
		[]PrivateKey{private}, map[string]PresharedKey{"a": preshared}, []Device{device},
		struct{ Key *PrivateKey }{&private}, struct{ key PrivateKey }{private}, struct{ key *PrivateKey }{&private},
		fmt.Errorf("configure %v: %w", device, errors.New("refused")),
	}
	forbidden := append(traces(private.Reveal()), traces(presharedRaw)...)
	for _, v := range values {
		for how, text := range renderings(t, v) {
			for _, trace := range forbidden {
				if strings.Contains(text, trace) {
					t.Errorf("%T printed with %s shows the key as %q", v, how, trace)
				}
			}
		}
	}
}

func renderings(t *testing.T, v any) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, verb := range "vsdqxXobcUtTpeEfFgGwO" {
		for _, flags := range []string{"", "+", "#", " ", "0", "-", "64"} {
			format := "%" + flags + string(verb)
			out[format] = strings.ReplaceAll(strings.Join(strings.Fields(fmt.Sprintf(format, v)), " "), "[ ", "[")
		}
	}
	if b, err := json.Marshal(v); err == nil {
		out["json"] = string(b)
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	out["slog"] = b.String()
	return out
}

// The test above can only mean something if it would notice a key that is there.
func TestTracesFindAPlainKey(t *testing.T) {
	raw := testKey(11)
	for how, text := range renderings(t, struct{ Key []byte }{raw[:]}) {
		if strings.HasSuffix(how, "v") || how == "json" {
			found := false
			for _, trace := range traces(raw) {
				found = found || strings.Contains(text, trace)
			}
			if !found {
				t.Errorf("a plain key printed with %s was not found in %q", how, text)
			}
		}
	}
}

func TestSecretsDoNotCompareWithOperators(t *testing.T) {
	for _, v := range []any{PrivateKey{}, PresharedKey{}, Peer{}, Device{}} {
		if reflect.TypeOf(v).Comparable() {
			t.Errorf("%T compares with ==, which does not take constant time", v)
		}
	}
}

func TestPublicHalf(t *testing.T) {
	// RFC 7748, section 5.2: the first iteration has scalar and point 9, and 9 is the base point.
	key := NewPrivateKey([KeySize]byte{9})
	want, err := hex.DecodeString("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
	if err != nil {
		t.Fatal(err)
	}
	if got := key.Public(); !bytes.Equal(got[:], want) {
		t.Errorf("public half is %x, want %x", got[:], want)
	}
	if !(PrivateKey{}).Public().IsZero() {
		t.Error("no key has a public half")
	}
}

func TestKeysSurviveTheirText(t *testing.T) {
	key, err := GeneratePrivateKey(bytes.NewReader(bytes.Repeat([]byte{0xff, 3}, 16)))
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePrivateKey(key.RevealText())
	if err != nil || !again.Equal(key) {
		t.Errorf("private key read back differs: %v", err)
	}
	public, err := ParsePublicKey(key.Public().String())
	if err != nil || public != key.Public() {
		t.Errorf("public key read back differs: %v", err)
	}
	if other := NewPrivateKey(testKey(1)); other.Equal(key) {
		t.Error("two keys are equal")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	good := NewPrivateKey(testKey(1)).RevealText()
	for _, text := range []string{"", good + "\n", good[:43], good[1:], good + good, strings.Repeat("A", 43) + "=", good[:42] + "B="} {
		if _, err := ParsePrivateKey(text); !errors.Is(err, ErrKeyFormat) {
			t.Errorf("%d characters: got error %v", len(text), err)
		} else if len(text) > 8 && strings.Contains(err.Error(), text[:8]) {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
	if _, err := GeneratePrivateKey(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("a key was made of 31 bytes")
	}
}
