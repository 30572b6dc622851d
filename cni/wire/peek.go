package wire

import "unicode/utf8"

// Peek finds top-level string members of a JSON object by name, without a JSON library: the plugin
// needs two of the configuration (where the socket is, and the version in which to word an error),
// and the agent reads the rest. A member that is absent, or not a string, is "". Of members with
// one name the last counts, as in encoding/json. Text that is no object gives nothing.
func Peek(text []byte, names ...string) map[string]string {
	found := map[string]string{}
	s := scanner{text: text}
	if !s.next('{') {
		return found
	}
	for {
		name, ok := s.str()
		if !ok || !s.next(':') {
			return found
		}
		value, isString := s.str()
		if !isString && !s.skip() {
			return found
		}
		for _, want := range names {
			if name == want && isString {
				found[want] = value
			}
		}
		if !s.next(',') {
			return found
		}
	}
}

// scanner walks over JSON text.
type scanner struct {
	text []byte
	at   int
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// next goes over one character of punctuation, if it is the next.
func (s *scanner) next(c byte) bool {
	s.space()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

// str reads a string, if one is next; otherwise it stays where it is.
func (s *scanner) str() (string, bool) {
	s.space()
	if s.at >= len(s.text) || s.text[s.at] != '"' {
		return "", false
	}
	var out []byte
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; c {
		case '"':
			s.at = i + 1
			return string(out), true
		case '\\':
			r, n := unescape(s.text[i:])
			if n == 0 {
				return "", false
			}
			out = utf8.AppendRune(out, r)
			i += n - 1
		default:
			out = append(out, c)
		}
	}
	return "", false
}

// unescape reads one escape sequence and tells its length, 0 if it is none. A surrogate becomes
// U+FFFD: neither a path nor a version has one.
func unescape(b []byte) (rune, int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch c := b[1]; c {
	case '"', '\\', '/':
		return rune(c), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		return unhex(b)
	}
	return 0, 0
}

func unhex(b []byte) (rune, int) {
	if len(b) < 6 {
		return 0, 0
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, 0
		}
		r = r<<4 | rune(c)
	}
	return r, 6
}

// skip goes over any value that is not a string at its top, to the comma or brace behind it.
func (s *scanner) skip() bool {
	depth := 0
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case '"':
			if _, ok := s.str(); !ok {
				return false
			}
			continue
		case '{', '[':
			depth++
		case ',':
			if depth == 0 {
				return true
			}
		case '}', ']':
			if depth == 0 {
				return true
			}
			depth--
		}
		s.at++
	}
	return false
}
