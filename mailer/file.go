package mailer

import (
	"encoding/base64"
	"errors"
	"io"
)

// ErrBadBase64 is what [File.WriteBase64] and [File.End] say of a text that is none.
var ErrBadBase64 = errors.New("no base64")

// File is the content of an attachment. It is written once, front to back, and then
// read any number of times, also by several goroutines at once. What is written is
// kept as it goes into messages, in lines of base64 (RFC 2045, section 6.8), in memory
// or a file as [Spool] says.
type File struct {
	text   spooled
	column int // characters in the current line
	chars  int64
	octets int64

	quantum [4]byte // characters of base64 that wait for others
	waiting int
	padding int
	piece   []byte // octets that wait for the rest of a line
	ended   bool
}

// NewFile returns an empty file in the spool. It must be closed.
func (s *Spool) NewFile() *File { return &File{text: spooled{spool: s}} }

// Write appends octets. After an error the file is good for nothing but Close.
func (f *File) Write(p []byte) (int, error) {
	taken := len(p)
	if len(f.piece) > 0 {
		n := min(base64Line-len(f.piece), len(p))
		f.piece = append(f.piece, p[:n]...)
		p = p[n:]
		if len(f.piece) < base64Line {
			return taken, nil
		}
		if err := f.encode(f.piece); err != nil {
			return 0, err
		}
		f.piece = f.piece[:0]
	}
	for ; len(p) >= base64Line; p = p[base64Line:] {
		if err := f.encode(p[:base64Line]); err != nil {
			return 0, err
		}
	}
	f.piece = append(f.piece, p...)
	return taken, nil
}

// encode appends octets, a line or less.
func (f *File) encode(p []byte) error {
	var line [76]byte
	return f.take(base64.StdEncoding.AppendEncode(line[:0], p))
}

// The kinds of characters in base64.
const (
	charBad = 1 << iota
	charURL
	charPad
	charBreak
)

var base64Chars = func() (kinds [256]byte) {
	for i := range kinds {
		kinds[i] = charBad
		if isAlnum(byte(i)) || i == '+' || i == '/' {
			kinds[i] = 0
		}
	}
	kinds['-'], kinds['_'], kinds['='], kinds['\r'], kinds['\n'] = charURL, charURL, charPad, charBreak, charBreak
	return kinds
}()

// WriteBase64 appends octets that come as a text in base64, in any pieces: in either
// alphabet (RFC 4648, sections 4 and 5), with padding or without, and with line breaks
// anywhere. It returns how much of p it has taken, and [ErrBadBase64] where it met what
// is none: writing may go on behind that. A file is written by Write or by WriteBase64,
// not by both.
func (f *File) WriteBase64(p []byte) (n int, err error) {
	for n < len(p) {
		if run := standardRun(p[n:]); run > 0 {
			if f.padding > 0 {
				return n, ErrBadBase64
			}
			if err := f.takeChars(p[n : n+run]); err != nil {
				return n, err
			}
			n += run
			continue
		}
		switch c := p[n]; {
		case base64Chars[c] == charURL && f.padding == 0:
			standard := [1]byte{'+'}
			if c == '_' {
				standard[0] = '/'
			}
			if err := f.takeChars(standard[:]); err != nil {
				return n, err
			}
		case base64Chars[c] == charPad && f.waiting >= 2 && f.waiting+f.padding < 4:
			f.padding++
		case base64Chars[c] == charBreak:
		default:
			return n, ErrBadBase64
		}
		n++
	}
	return n, nil
}

// standardRun counts the characters at the beginning of p that are of the standard
// alphabet.
func standardRun(p []byte) int {
	n := 0
	for ; len(p)-n >= 8; n += 8 {
		b := p[n : n+8 : n+8]
		if base64Chars[b[0]]|base64Chars[b[1]]|base64Chars[b[2]]|base64Chars[b[3]]|
			base64Chars[b[4]]|base64Chars[b[5]]|base64Chars[b[6]]|base64Chars[b[7]] != 0 {
			break
		}
	}
	for n < len(p) && base64Chars[p[n]] == 0 {
		n++
	}
	return n
}

// takeChars appends characters of the standard alphabet. An incomplete quantum waits.
func (f *File) takeChars(p []byte) error {
	if f.waiting > 0 {
		n := copy(f.quantum[f.waiting:], p)
		f.waiting += n
		p = p[n:]
		if f.waiting < 4 {
			return nil
		}
		f.waiting = 0
		if err := f.take(f.quantum[:]); err != nil {
			return err
		}
	}
	whole := len(p) &^ 3
	f.waiting = copy(f.quantum[:], p[whole:])
	return f.take(p[:whole])
}

// take appends whole quanta, in lines.
func (f *File) take(p []byte) error {
	f.chars += int64(len(p))
	for len(p) > 0 {
		if f.column == 76 {
			if _, err := f.text.Write(crlf); err != nil {
				return err
			}
			f.column = 0
		}
		n := min(76-f.column, len(p))
		if _, err := f.text.Write(p[:n]); err != nil {
			return err
		}
		f.column += n
		p = p[n:]
	}
	return nil
}

// End ends the writing. Only then the file can be read.
func (f *File) End() error {
	if f.ended {
		return nil
	}
	short := 0 // octets that the last quantum has less than three
	if f.waiting > 0 {
		if f.waiting == 1 || f.padding > 0 && f.waiting+f.padding != 4 {
			return ErrBadBase64
		}
		var octets [2]byte
		n, err := base64.RawStdEncoding.Decode(octets[:], f.quantum[:f.waiting])
		if err != nil {
			return ErrBadBase64
		}
		f.piece = append(f.piece[:0], octets[:n]...) // and its unused bits are zero
	}
	if n := len(f.piece); n > 0 {
		short = (3 - n%3) % 3
		if err := f.encode(f.piece); err != nil {
			return err
		}
		f.piece = nil
	}
	f.octets, f.ended = f.chars/4*3-int64(short), true
	return f.text.done()
}

// Size is the number of octets, as they were before they were encoded.
func (f *File) Size() int64 { return f.octets }

// Open returns a reader of the octets, as they were before they were encoded.
func (f *File) Open() (io.ReadCloser, error) {
	pr, pw := io.Pipe()
	go func() {
		_, err := f.text.WriteTo(pw)
		_ = pw.CloseWithError(err)
	}()
	return struct {
		io.Reader
		io.Closer
	}{base64.NewDecoder(base64.StdEncoding, pr), pr}, nil
}

// Encoded writes the content in base64, in lines without a break after the last one,
// and returns the number of characters. The same octets give the same text, however
// they were written.
func (f *File) Encoded(w io.Writer) (int64, error) { return f.text.WriteTo(w) }

// Close gives the memory and the file back. It may be called more than once.
func (f *File) Close() error { return f.text.Close() }
