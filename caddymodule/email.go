package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// emailRequest is a request to send one message, read and ready to compose.
type emailRequest struct {
	message *mailer.Message
	// at is when it is to go; zero for now.
	at time.Time
	// schedule is how the request says that.
	schedule string
	warnings []string
	// tenant is the one that the answer names; empty for none.
	tenant string
}

// Limits of a request, beside that of its size.
const (
	maxRecipients  = 100
	maxReplyTo     = 10
	maxHeaders     = 50
	maxHeaderBytes = 64 << 10
	maxAttachments = 50
	maxTags        = 20
	// maxWarnings bounds an answer; what a program does wrong it mostly does
	// often.
	maxWarnings = 20
)

// parseEmail reads the JSON body of `POST /emails`. What only an outbox can do is
// refused without one. The error is a [*problem], or a [*mailer.Error] that names the
// field.
func parseEmail(body []byte, outbox bool) (*emailRequest, error) {
	if err := checkText(body); err != nil {
		return nil, err
	}
	m := new(mailer.Message)
	r := &emailRequest{message: m}
	var from, subject *string
	var to, cc, bcc, replyTo []string
	scheduled := unsupported("scheduling needs the outbox, which is off on this server")
	if outbox {
		scheduled = func(path string, raw json.RawMessage) error {
			r.schedule = string(raw)
			return decodeSchedule(&r.at, time.Now())(path, raw)
		}
	}
	err := decodeObject(body, "", fields{
		"from":         decodePresent(&from),
		"to":           decodeTexts(&to, maxRecipients),
		"cc":           decodeTexts(&cc, maxRecipients),
		"bcc":          decodeTexts(&bcc, maxRecipients),
		"reply_to":     decodeTexts(&replyTo, maxReplyTo),
		"subject":      decodePresent(&subject),
		"text":         decodeText(&m.Text),
		"html":         decodeText(&m.HTML),
		"headers":      r.decodeHeaders,
		"attachments":  r.decodeAttachments,
		"tags":         decodeTags,
		"scheduled_at": scheduled,
		"template":     unsupported("there are no templates on this server; send text or html"),
		"oauth_mail":   unsupported("this version takes no extensions of its own yet"),
		"topic_id":     r.ignored("topic_id has no meaning on this server and was ignored"),
	}, r.unknown)
	if err != nil {
		return nil, err
	}
	if from != nil {
		if m.From, err = mailer.ParseAddress(*from); err != nil {
			return nil, fieldError("from", err)
		}
	}
	for _, f := range []struct {
		name string
		list []string
		into *[]mailer.Address
	}{{"to", to, &m.To}, {"cc", cc, &m.Cc}, {"bcc", bcc, &m.Bcc}, {"reply_to", replyTo, &m.ReplyTo}} {
		if *f.into, err = parseAddresses(f.name, f.list); err != nil {
			return nil, err
		}
	}
	if len(m.To) == 0 {
		return nil, missing("to")
	}
	if n := len(m.To) + len(m.Cc) + len(m.Bcc); n > maxRecipients {
		return nil, invalid("to", "too_many", "%d recipients are more than the %d that one message may have", n, maxRecipients)
	}
	if subject == nil {
		return nil, missing("subject")
	}
	m.Subject = *subject
	return r, nil
}

// parseAddresses reads a field of addresses. Each entry holds one, so that
// `a@b, c@d` in one string is never taken for something it may not be.
func parseAddresses(field string, list []string) ([]mailer.Address, error) {
	var out []mailer.Address
	for i, s := range list {
		a, err := mailer.ParseAddress(s)
		if err != nil {
			name := field
			if len(list) > 1 {
				name = fmt.Sprintf("%s[%d]", field, i)
			}
			return nil, fieldError(name, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// fieldError names the field in an error of the mailer.
func fieldError(field string, err error) error {
	if e, ok := errors.AsType[*mailer.Error](err); ok {
		named := *e
		named.Field = field
		return &named
	}
	return err
}

func (r *emailRequest) decodeHeaders(path string, raw json.RawMessage) error {
	count, size := 0, 0
	return decodeObject(raw, path, nil, func(path, name string, raw json.RawMessage) error {
		count++
		if size += len(name) + len(raw); count > maxHeaders || size > maxHeaderBytes {
			return invalid("headers", "too_many", "there are more than %d, or they are larger than %d KiB", maxHeaders, maxHeaderBytes>>10)
		}
		var value string
		if err := json.Unmarshal(raw, &value); err != nil {
			var number json.Number
			if json.Unmarshal(raw, &number) != nil {
				return badJSON(path, "must be a string")
			}
			value = number.String()
		}
		if mailer.ClassifyHeader(name) == mailer.HeaderStructural {
			r.warn("the header " + name + " is made by this server; yours was dropped")
			return nil
		}
		r.message.Headers = append(r.message.Headers, mailer.HeaderField{Name: name, Value: value})
		return nil // Compose says what is wrong with a malformed one
	})
}

func (r *emailRequest) decodeAttachments(path string, raw json.RawMessage) error {
	return decodeList(raw, path, maxAttachments, r.decodeAttachment)
}

func (r *emailRequest) decodeAttachment(path string, raw json.RawMessage) error {
	var a mailer.Attachment
	var disposition, inlineID string
	var content []byte
	found := false
	err := decodeObject(raw, path, fields{
		"filename":            decodeText(&a.Filename),
		"content_type":        decodeText(&a.ContentType),
		"content_id":          decodeText(&a.ContentID),
		"inline_content_id":   decodeText(&inlineID),
		"content_disposition": decodeText(&disposition),
		"content": func(path string, raw json.RawMessage) (err error) {
			found = true
			content, err = decodeBytes(path, raw)
			return err
		},
		"path": func(path string, _ json.RawMessage) error {
			return badAttachment(path, "remote_attachment", "This server fetches no attachments from elsewhere. Send the file itself in `content`, in base64.")
		},
	}, r.unknown)
	if err != nil {
		return err
	}
	if !found {
		return badAttachment(path, "missing_content", "The attachment has no `content`.")
	}
	if a.ContentID == "" {
		a.ContentID = inlineID
	}
	a.Inline = disposition == "inline" || disposition == "" && a.ContentID != ""
	if disposition != "" && disposition != "inline" && disposition != "attachment" {
		return badAttachment(path+".content_disposition", "bad_disposition", "content_disposition must be attachment or inline.")
	}
	a.Source = mailer.Bytes(content)
	r.message.Attachments = append(r.message.Attachments, a)
	return nil
}

// decodeBytes reads the content of an attachment: base64, a list of byte values,
// or what Node makes of a Buffer. Official SDKs send all three.
func decodeBytes(path string, raw json.RawMessage) ([]byte, error) {
	bad := badAttachment(path, "bad_content", "The content of an attachment must be base64, a list of byte values, or a Buffer object.")
	switch {
	case len(raw) > 0 && raw[0] == '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, bad
		}
		text = strings.NewReplacer("\r", "", "\n", "").Replace(text)
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
			if data, err := encoding.DecodeString(text); err == nil {
				return data, nil
			}
		}
		return nil, bad
	case len(raw) > 0 && raw[0] == '[':
		return decodeByteList(raw, bad)
	}
	var buffer struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(raw, &buffer); err != nil || buffer.Type != "Buffer" {
		return nil, bad
	}
	return decodeByteList(buffer.Data, bad)
}

// decodeByteList reads [1,2,255]. A []int of it would take eight times the room.
func decodeByteList(raw json.RawMessage, bad error) ([]byte, error) {
	out := make([]byte, 0, len(raw)/3)
	value, digits, open := 0, 0, false
	for _, c := range raw {
		switch {
		case c == '[' && !open:
			open = true
		case c >= '0' && c <= '9':
			value, digits = value*10+int(c-'0'), digits+1
			if value > 255 {
				return nil, bad
			}
		case c == ',' || c == ']':
			if digits > 0 {
				out = append(out, byte(value))
			}
			value, digits = 0, 0
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		default:
			return nil, bad
		}
	}
	if !open {
		return nil, bad
	}
	return out, nil
}

// decodeTags checks tags. They are for lists and statistics, not for the
// message.
func decodeTags(path string, raw json.RawMessage) error {
	return decodeList(raw, path, maxTags, func(path string, raw json.RawMessage) error {
		return decodeObject(raw, path, nil, func(string, string, json.RawMessage) error { return nil })
	})
}

// decodePresent reads a string and notes that it is there.
func decodePresent(s **string) decoder {
	return func(path string, raw json.RawMessage) error {
		*s = new(string)
		return decodeText(*s)(path, raw)
	}
}

// unsupported refuses a field that would change what is sent.
func unsupported(why string) decoder {
	return func(path string, _ json.RawMessage) error {
		return invalid(path, "unsupported", "%s", why)
	}
}

// ignored drops a field with a warning.
func (r *emailRequest) ignored(warning string) decoder {
	return func(string, json.RawMessage) error {
		r.warn(warning)
		return nil
	}
}

// unknown drops a field that is not known, with a warning: SDKs send fields that
// are newer than this server.
func (r *emailRequest) unknown(path, _ string, _ json.RawMessage) error {
	r.warn(fmt.Sprintf("the field %q is not known and was ignored", path))
	return nil
}

func (r *emailRequest) warn(warning string) {
	switch n := len(r.warnings); {
	case n < maxWarnings:
		r.warnings = append(r.warnings, warning)
	case n == maxWarnings:
		r.warnings = append(r.warnings, "there are more warnings like these")
	}
}
