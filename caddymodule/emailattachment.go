package caddymodule

import (
	"bytes"
	"errors"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

func (e *emailReader) attachments() error { return e.list(maxAttachments, e.attachment) }

var attachmentNames = names{"filename", "content", "content_type", "content_id", "inline_content_id", "content_disposition", "path"}

func (e *emailReader) attachment() error {
	where := e.place()
	var a mailer.Attachment
	var disposition, inlineID string
	m := memberWalk{known: attachmentNames}
	err := e.object(&m, func() (err error) {
		switch m.name {
		case "filename":
			a.Filename, err = e.string()
		case "content":
			a.Source, err = e.content()
		case "content_type":
			a.ContentType, err = e.string()
		case "content_id":
			a.ContentID, err = e.string()
		case "inline_content_id":
			inlineID, err = e.string()
		case "content_disposition":
			disposition, err = e.string()
		case "path":
			err = badAttachment(e.place(), "remote_attachment", "This server fetches no attachments from elsewhere. Send the file itself in `content`, in base64.")
		default:
			err = e.unknown()
		}
		return err
	})
	if err != nil {
		return err
	}
	if a.Source == nil {
		return badAttachment(where, "missing_content", "The attachment has no `content`.")
	}
	if a.ContentID == "" {
		a.ContentID = inlineID
	}
	a.Inline = disposition == "inline" || disposition == "" && a.ContentID != ""
	if disposition != "" && disposition != "inline" && disposition != "attachment" {
		return badAttachment(where+".content_disposition", "bad_disposition", "content_disposition must be attachment or inline.")
	}
	e.request.message.Attachments = append(e.request.message.Attachments, a)
	return nil
}

// newFile returns a file that is closed with the request.
func (r *emailRequest) newFile() *mailer.File {
	f := sendSpool.NewFile()
	r.files = append(r.files, f)
	return f
}

// content reads the content of an attachment: base64, a list of byte values, or what
// Node makes of a Buffer. Official SDKs send all three.
func (e *emailReader) content() (*mailer.File, error) {
	f := e.request.newFile()
	var err error
	switch e.peek() {
	case '"':
		e.pos++
		err = e.base64(f)
	case '[':
		err = e.octets(f)
	case '{':
		err = e.buffer(f)
	case 0:
		err = e.broken()
	default:
		err = e.badContent()
	}
	if err == nil {
		err = f.End()
	}
	if errors.Is(err, mailer.ErrBadBase64) {
		err = e.badContent()
	}
	return f, err
}

func (e *emailReader) badContent() error {
	return badAttachment(e.place(), "bad_content", "The content of an attachment must be base64, a list of byte values, or a Buffer object.")
}

// base64 reads the rest of a string. A data: URL is as good.
func (e *emailReader) base64(f *mailer.File) error {
	e.inString = true
	if err := e.dataURL(); err != nil {
		return err
	}
	for {
		if e.pos == e.end && !e.fill() {
			return e.broken()
		}
		n, err := f.WriteBase64(e.buf[e.pos:e.end])
		e.pos += n
		if err == nil {
			continue
		}
		if !errors.Is(err, mailer.ErrBadBase64) {
			return err
		}
		switch e.buf[e.pos] {
		case '"':
			e.pos++
			e.inString = false
			return nil
		case '\\':
			char, err := e.escape()
			if err != nil {
				return err
			}
			if _, err := f.WriteBase64(char); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// maxDataURL is how long the beginning of a data: URL may be, with the comma.
const maxDataURL = 512

// dataURL passes over the beginning of a data: URL (RFC 2397), if there is one.
func (e *emailReader) dataURL() error {
	const scheme = "data:"
	if !e.need(len(scheme)) || string(e.buf[e.pos:e.pos+len(scheme)]) != scheme {
		return nil
	}
	for n := len(scheme); n < maxDataURL && e.need(n+1); n++ {
		if e.buf[e.pos+n] == ',' {
			if !bytes.HasSuffix(e.buf[e.pos:e.pos+n], []byte(";base64")) {
				return mailer.ErrBadBase64
			}
			e.pos += n + 1
			return nil
		}
	}
	return mailer.ErrBadBase64
}

// octets reads a list of byte values. A []int of it would take eight times the room.
func (e *emailReader) octets(f *mailer.File) error {
	if err := e.enter('['); err != nil {
		return err
	}
	var out [57 * 32]byte
	n := 0
	for first := true; ; first = false {
		c := e.peek()
		if c == ']' && first {
			break
		}
		value, digits := 0, 0
		for ; '0' <= c && c <= '9'; c = e.buf[e.pos] {
			value, digits = value*10+int(c-'0'), digits+1
			if digits > 3 || value > 255 || digits > 1 && value < 10 {
				return e.badContent()
			}
			if e.pos++; e.pos == e.end && !e.fill() {
				return e.broken()
			}
		}
		if c = e.peek(); digits == 0 || c != ',' && c != ']' {
			if c == 0 {
				return e.broken()
			}
			return e.badContent()
		}
		out[n] = byte(value)
		if n++; n == len(out) {
			if _, err := f.Write(out[:]); err != nil {
				return err
			}
			n = 0
		}
		if c == ']' {
			break
		}
		e.pos++
	}
	e.pos++
	e.exit()
	_, err := f.Write(out[:n])
	return err
}

var bufferNames = names{"type", "data"}

// buffer reads {"type":"Buffer","data":[…]}.
func (e *emailReader) buffer(f *mailer.File) error {
	bad := e.badContent()
	m := memberWalk{known: bufferNames}
	err := e.object(&m, func() error {
		switch {
		case m.name == "type":
			kind, err := e.string()
			if err == nil && kind != "Buffer" {
				err = bad
			}
			return err
		case m.name == "data" && e.peek() == '[':
			return e.octets(f)
		}
		return bad
	})
	if err == nil && m.seen != 0b11 {
		err = bad
	}
	return err
}
