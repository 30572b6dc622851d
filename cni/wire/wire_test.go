package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"
)

func TestRequestRoundTrip(t *testing.T) {
	want := Header{Command: "ADD", ContainerID: "abc", Netns: "/run/netns/x", IfName: "eth0", Args: "A=\"1\";B=\n\x01", Path: "/opt/cni/bin"}
	config := []byte(`{"cniVersion":"1.1.0"}`)
	frame := AppendRequest(nil, want, config)
	h, c, err := ParseRequestHead(frame)
	if err != nil || HeadSize+h+c != len(frame) {
		t.Fatalf("head of %q: header %d, config %d, %v", frame, h, c, err)
	}
	var got Header
	if err := json.Unmarshal(frame[HeadSize:HeadSize+h], &got); err != nil {
		t.Fatalf("header %q: %v", frame[HeadSize:HeadSize+h], err)
	}
	if got != want || !bytes.Equal(frame[HeadSize+h:], config) {
		t.Errorf("got %+v and %q", got, frame[HeadSize+h:])
	}
}

func TestReplyRoundTrip(t *testing.T) {
	frame := AppendReply(nil, 1, []byte("out"))
	status, n, err := ParseReplyHead(frame)
	if err != nil || status != 1 || n != 3 || string(frame[HeadSize:]) != "out" {
		t.Errorf("status %d, output %d, %v in %q", status, n, err, frame)
	}
}

func TestHeadRefusals(t *testing.T) {
	large := AppendReply(nil, 0, nil)
	large[8] = 0xff
	for _, c := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"empty", nil, ErrMagic},
		{"short", []byte("WFT1"), ErrMagic},
		{"http", []byte("GET / HTTP/1.1\r\n"), ErrMagic},
		{"large", large, ErrTooLarge},
	} {
		if _, _, err := ParseRequestHead(c.frame); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestErrorIsJSON(t *testing.T) {
	var got struct {
		CNIVersion string `json:"cniVersion"`
		Code       int    `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details"`
	}
	b := AppendError(nil, "1.1.0", 11, `agent "down"`, "line\nbreak")
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	if got.Code != 11 || got.Msg != `agent "down"` || got.Details != "line\nbreak" || got.CNIVersion != "1.1.0" {
		t.Errorf("got %+v", got)
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("plain")
	f.Add("\"\\\x00\x7f\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(AppendString(nil, s), &got); err != nil {
			t.Fatalf("%q is not JSON: %v", s, err)
		}
		if utf8.ValidString(s) && got != s {
			t.Errorf("got %q, want %q", got, s)
		}
	})
}

func FuzzRequestHead(f *testing.F) {
	f.Add(AppendRequest(nil, Header{Command: "DEL"}, []byte("{}")))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, c, err := ParseRequestHead(b)
		if err == nil && (h < 0 || h > MaxHeader || c < 0 || c > MaxConfig) {
			t.Errorf("%q: header %d, config %d", b, h, c)
		}
	})
}

// FuzzPeek holds the scanner against encoding/json: on every valid object both find the same.
func FuzzPeek(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","socket":"/run/x"}`))
	f.Add([]byte(` {"a":{"socket":"no","b":[1,"]}",{}]},"cniVersion" : null, "socket":"\u002frun\n\"\\" }`))
	f.Add([]byte(`{"socket":1,"cniVersion":"x"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := Peek(text, "cniVersion", "socket")
		var all map[string]json.RawMessage
		if !utf8.Valid(text) || json.Unmarshal(text, &all) != nil {
			return
		}
		for _, name := range []string{"cniVersion", "socket"} {
			var want string
			if json.Unmarshal(all[name], &want) != nil {
				continue // absent, or not a string
			}
			if bytes.Contains(all[name], []byte(`\ud`)) || bytes.Contains(all[name], []byte(`\uD`)) || bytes.Contains(text, []byte("null")) {
				continue // surrogates are not read; null is "" to encoding/json
			}
			if bytes.Count(text, []byte(name)) > 1 || bytes.Contains(text, []byte(`\u`)) {
				continue // of several members the last string counts here
			}
			if got[name] != want {
				t.Errorf("%s of %q: got %q, want %q", name, text, got[name], want)
			}
		}
	})
}
