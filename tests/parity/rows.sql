INSERT INTO types_more VALUES (:id, '{1.1,NaN,-Infinity,NULL}', '{2.718281828459045,1e308,NaN}', '{1,-32768,NULL}', '{1.50,0.00000000000000000001,NaN,NULL}', '{a,NULL,"b c"}', '{ab,abc}',
 '{nm}', '{13:14:15.123456,24:00:00}', '{13:14:15.123456+05:30}', '{"1 year 2 mons 3 days 04:05:06.789",NULL}', '{1234.56,-0.01}', '{0,1,NULL}', '{101,011}', '{1,10101}',
 '{192.168.0.1/24,::1}', '{10.1.0.0/16}', '{08:00:2b:01:02:03}', '{08:00:2b:01:02:03:04:05}', array['{"a": 1}'::json], '{<a/>}', '{"(1.5,2.5)"}', '{"[1,10)",empty}', '{"[2024-01-01,2024-02-01)"}',
 '[1,9007199254740993)', '{[1.5,2.5],(3,4]}', '{[2024-01-01,2024-02-01)}', '{1,2,3}', '[(0,0),(1,1)]', '((0,0),(1,1))', '$.a[*]', '42', '7', '(1,2)',
 'int4', 'now', array['a b'::tsvector], '{1,4294967290}', 'free', 1234567890123456789012345678.0123456789, 1e400,
 B'1010101010101010101010101010101010101010101010101010101010101010', B'110011', 'pad  ', 'é', '{sad,NULL}', 5);
INSERT INTO types_more (id) VALUES (:id + 1);
INSERT INTO types_more (id, m_float4a, m_float8a, m_int2a, m_numfree, m_varchara, m_chara, m_namea, m_timea, m_timetza, m_intervala, m_moneya, m_bit1a, m_bit3a, m_varbita, m_ineta, m_jsona, m_varbitfree, m_numwide, m_bpchar)
 VALUES (:id + 2, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '', 0, '');
INSERT INTO types_more (id, m_int2a, m_varchara, m_numfree, m_float8a) VALUES (:id + 3, '{{1,2},{3,4}}', '{{a,b},{c,d}}', '{{1.5}}', '[0:1]={1,2}');
